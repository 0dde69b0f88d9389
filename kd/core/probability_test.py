"""Distributions over ids against float64 numpy, sorting and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import probability


def _distributions(size, seed=0):
  """Rows of each kind: ordinary, peaked, flat, ties, mostly zeros."""
  rng = np.random.default_rng(seed)
  peaked = np.full(size, 1e-12)
  peaked[size // 3] = 1
  ties = rng.integers(1, 4, size).astype(float)
  zeros = rng.exponential(1, size) * (rng.random(size) < 0.2)
  zeros[0] = 1
  rows = rng.dirichlet(np.full(size, 0.3)), peaked, np.ones(size), ties, zeros
  p = np.stack(rows)
  return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize('size', [1, 7, 300, 5000])
def test_entropy_equals_float64(size):
  p = _distributions(size)
  with np.errstate(divide='ignore'):
    log_p = np.log(p)
  expected = -np.where(p > 0, p * np.maximum(log_p, -1e3), 0.0).sum(-1)
  got = jax.jit(probability.entropy)(log_p.astype(np.float32))
  np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_entropy_keeps_nan():
  log_p = np.log(_distributions(264)[:2]).astype(np.float32)
  log_p[1, 7] = np.nan
  got = jax.jit(probability.entropy)(log_p)
  assert np.isfinite(got[0]) and np.isnan(got[1])


@pytest.mark.parametrize('mass', [1e-6, 0.3, 0.9, 0.999])
@pytest.mark.parametrize('size', [1, 9, 1000])
def test_the_nucleus_equals_that_of_sorting(size, mass):
  p = _distributions(size).astype(np.float32)
  threshold = jax.jit(probability.nucleus_threshold)(p, mass)
  inside = np.asarray(jax.jit(probability.in_nucleus)(p, mass))
  assert threshold.shape == (len(p), 1)
  np.testing.assert_array_equal(inside, p >= threshold)
  for row, kept in zip(p.astype(np.float64), inside, strict=True):
    ranked = np.sort(row)[::-1]
    # The sum of float32 numbers may be rounded across the boundary.
    fewest = np.searchsorted(np.cumsum(ranked), mass - 2e-7)
    most = min(np.searchsorted(np.cumsum(ranked), mass + 1e-6), size - 1)
    # All ids that tie with the last one.
    assert kept.sum() in {
      (row >= ranked[n]).sum() for n in range(fewest, most + 1)
    }


def test_sorted_probabilities_have_an_equal_nucleus():
  p = -np.sort(-_distributions(64)[:2]).astype(np.float32)
  for mass in (1e-6, 0.3, 0.9, 0.999, 2.0):
    inside = np.asarray(probability.in_sorted_nucleus(p, mass))
    for row, kept in zip(p.astype(np.float64), inside, strict=True):
      before = np.concatenate([[0], np.cumsum(row)[:-1]])
      # Sums of float32 numbers may be rounded across the boundary.
      clear = np.abs(before - mass) > 1e-6
      np.testing.assert_array_equal(kept[clear], (before < mass)[clear])


def test_the_threshold_is_the_highest_with_enough_mass():
  """Tries every probability that occurs, and one beyond."""
  rng = np.random.default_rng(1)
  p = (rng.integers(0, 64, (200, 9)) / 64).astype(np.float32)  # Exact sums.
  mass = (rng.integers(1, 129, (200, 1)) / 64).astype(np.float32)
  got = np.asarray(probability.nucleus_threshold(p, mass))
  for row, wanted, threshold in zip(p, mass[:, 0], got[:, 0], strict=True):
    enough = [x for x in row if row[row >= x].sum() >= wanted]
    assert threshold == max(enough, default=0)


def test_subnormal_probabilities_are_outside_a_full_nucleus():
  p = np.float32([[0.5, 1e-40, 0.0]])
  inside = probability.in_nucleus(p, np.float32(0.5) + np.float32(0))
  np.testing.assert_array_equal(inside, [[True, False, False]])


def _draw(mass, uniform, block):
  """Draws from masses [V], V a multiple of block, at uniform [2, N]."""
  blocks = jnp.asarray(mass, jnp.float32).reshape(1, -1, block)
  within = lambda chosen: blocks[jnp.arange(1)[:, None], chosen]
  return jax.jit(
    lambda u: probability.draw_by_blocks(jnp.sum(blocks, -1), within, u)[0]
  )(jnp.asarray(uniform, jnp.float32)[None])


@pytest.mark.parametrize('block', [1, 4, 32])
def test_draws_on_a_grid_have_the_exact_frequencies(block):
  """An even grid of both numbers is an integral of the drawn ids."""
  rng = np.random.default_rng(2)
  mass = rng.exponential(1, 64) * (rng.random(64) < 0.7)
  mass[:block] = 0  # A block without mass.
  grid = (np.arange(512) + 0.5) / 512
  pairs = np.stack(np.meshgrid(grid, grid)).reshape(2, -1)
  ids = np.asarray(_draw(mass, pairs, block))
  frequencies = np.bincount(ids, minlength=64) / len(ids)
  # Each boundary falls into one interval of each of the two grids.
  np.testing.assert_allclose(frequencies, mass / mass.sum(), atol=2.5 / 512)
  assert not frequencies[mass == 0].any()


def test_both_ends_of_the_unit_interval_draw_ids_with_mass():
  mass = np.zeros(32)
  mass[[5, 6, 20]] = 1e-3, 5.0, 1e-5
  low, high = 0.0, 1 - 2.0**-24
  pairs = np.array([[low, low, high, high], [low, high, low, high]])
  np.testing.assert_array_equal(_draw(mass, pairs, 8), [5, 6, 20, 20])


def test_unlikely_ids_of_a_large_vocabulary_are_drawn():
  """One float32 sum over 2^18 ids cannot tell masses of 1e-8 apart."""
  size, block = 2**18, 512
  mass = np.full(size, 1e-8)
  mass[0] = 1.0
  rng = np.random.default_rng(3)
  uniform = rng.random((2, 100_000))
  # Only unlikely ids.
  uniform[0] = 1 - uniform[0] * (1 - (1 + 511e-8) / mass.sum())
  uniform = np.minimum(uniform, 1 - 2.0**-24)
  ids = np.asarray(_draw(mass, uniform, block))
  counts = np.bincount(ids // block, minlength=size // block)[1:]
  assert len(counts) == size // block - 1
  assert 0.6 < counts.min() / counts.mean() < counts.max() / counts.mean() < 1.4


def test_ids_without_mass_are_never_drawn():
  # Long sums are computed in parallel, with different rounding of each element,
  # so this draws at and around each value of a sum.
  rng = np.random.default_rng(0)
  for size in (128, 2048):
    mass = rng.exponential(1, size).astype(np.float32)
    mass[rng.random(size) < 0.5] = 0
    mass[-3:] = 0
    sums = np.asarray(jnp.cumsum(jnp.asarray(mass)))
    near = np.concatenate([sums / sums.max() + d * 6e-8 for d in (-1, 0, 1)])
    near = np.clip(near, 0, 1 - 2**-23)
    places = np.asarray(_draw(mass, np.stack([0 * near, near]), size))
    assert places.max() < size and (mass[places] > 0).all()
