"""Layer maps against the published formulas and brute force."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import errors
from kd.losses import layer_maps

PATH = 'losses.hidden.pairs'
similarity_of = jax.jit(layer_maps.similarity)


def test_maps_of_gemma_1b_to_4b():
  assert layer_maps.uniform(26, 34, 4, PATH) == (
    (5, 7),
    (12, 16),
    (18, 24),
    (25, 33),
  )
  assert layer_maps.last(26, 34, 3, PATH) == ((23, 31), (24, 32), (25, 33))


def test_uniform_is_evenly_spaced():
  for student, teacher in itertools.product(range(1, 9), range(1, 13)):
    for pairs in range(1, min(student, teacher) + 1):
      got = layer_maps.uniform(student, teacher, pairs, PATH)
      for i, pair in enumerate(got):
        share = (i + 1) / pairs
        expected = [
          math.floor(share * s + 1e-9) - 1 for s in (student, teacher)
        ]
        assert list(pair) == expected
      assert got[-1] == (student - 1, teacher - 1)
      assert got == tuple(sorted(set(got))) and got[0][0] >= 0


@pytest.mark.parametrize('pairs', [0, -1, 5, 2.0])
@pytest.mark.parametrize('layer_map', [layer_maps.uniform, layer_maps.last])
def test_wrong_numbers_of_pairs_are_named(layer_map, pairs):
  for layers in ((4, 9), (9, 4)):
    with pytest.raises(errors.ConfigError) as e:
      layer_map(*layers, pairs, PATH)
    for part in (PATH, str(pairs), '1 to 4'):
      assert part in str(e.value)


def cka(x, y, w):
  """Linear CKA through the kernels of tokens (section 2 of 1905.00414)."""
  w = w.reshape(-1)
  x, y = (z.reshape(w.size, -1)[w > 0].astype(np.float64) for z in (x, y))
  w = w[w > 0].astype(np.float64)
  centring = np.eye(w.size) - np.outer(np.ones(w.size), w / w.sum())
  root = np.sqrt(w)[:, None]
  k, l = (root * (centring @ z @ z.T @ centring.T) * root.T for z in (x, y))
  hsic = lambda a, b: np.trace(a @ b)
  return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def make_states(seed=0):
  """Three student and four teacher layers that share some directions."""
  rng = np.random.default_rng(seed)
  source = rng.normal(size=(2, 9, 4))
  student = np.stack([source @ rng.normal(size=(4, 5)) for _ in range(3)])
  teacher = np.stack([source @ rng.normal(size=(4, 7)) for _ in range(4)])
  student += rng.normal(size=student.shape) * [[[[0.1]]], [[[1]]], [[[3]]]]
  weights = rng.uniform(0.5, 2.0, (2, 9))
  weights[0, :3] = weights[1, 7:] = 0
  as_float = lambda *xs: [x.astype(np.float32) for x in xs]
  return as_float(student, teacher + 20, weights)


def test_similarity_equals_float64():
  student, teacher, weights = make_states()
  got = similarity_of(student, teacher, weights)
  expected = [[cka(x, y, weights) for y in teacher] for x in student]
  assert got.dtype == jnp.float32 and 0.1 < np.min(expected) < 0.9
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_similarity_is_invariant_to_rotation_and_scale():
  student, teacher, weights = make_states()
  expected = similarity_of(student, teacher, weights)
  rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))
  for changed in (teacher @ rotation, teacher * 1e9, teacher + 5):
    got = similarity_of(student, changed.astype(np.float32), weights)
    np.testing.assert_allclose(got, expected, rtol=2e-5)
  own = np.diag(similarity_of(teacher, teacher * 2, weights))
  np.testing.assert_allclose(own, 1, rtol=1e-6)
  # Other changes do matter.
  bent = similarity_of(student, abs(teacher - 20), weights)
  assert np.abs(bent - expected).max() > 0.05


def test_similarity_of_large_bfloat16_states():
  # Entries in the thousands, one of them the same in every token, bfloat16.
  student, teacher, weights = make_states()
  student = (student * 4000).astype(jnp.bfloat16)
  teacher = teacher * 4000
  teacher[..., 0] = 30000
  got = similarity_of(student, teacher, weights)
  expected = [[cka(x, y, weights) for y in teacher] for x in student]
  np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_similarity_of_nonfinite_and_constant_states():
  student, teacher, weights = make_states()
  expected = similarity_of(student, teacher, weights)
  student[:, 0, 1] = np.nan
  teacher[:, 1, 8] = np.inf
  got = similarity_of(student, teacher, weights)
  np.testing.assert_array_equal(got, expected)
  one_token = np.zeros_like(weights)
  one_token[1, 1] = 0.3
  constant = np.full_like(student, 1 / 3)
  for s, w in (
    (student, one_token),
    (student, 0 * weights),
    (constant, weights),
  ):
    np.testing.assert_array_equal(similarity_of(s, teacher, w), 0)


def test_similarity_needs_no_matrix_of_tokens():
  student, teacher = jnp.ones((2, 4, 64, 6)), jnp.ones((3, 4, 64, 10))
  compiled = similarity_of.lower(student, teacher, jnp.ones((4, 64)))
  used = compiled.compile().memory_analysis().temp_size_in_bytes
  # A few copies of both layers' centered states; 256 x 256 would be 262144.
  assert used < 8 * 4 * 256 * 10


def brute_force(similarity):
  n, m = similarity.shape
  legal = (
    itertools.combinations
    if n <= m
    else itertools.combinations_with_replacement
  )
  # Legal maps are in lexicographic order, and max returns the first.
  value = lambda chosen: sum(similarity[i, j] for i, j in enumerate(chosen))
  return max(legal(range(m), n), key=value)


def test_choose_equals_brute_force():
  rng = np.random.default_rng(0)
  for n, m in itertools.product(range(1, 5), range(1, 6)):
    for _ in range(20):
      # Eighths, so that sums are exact and there are many ties.
      similarity = rng.integers(0, 9, (n, m)) / 8
      got = layer_maps.choose(similarity.astype(np.float32))
      assert got.dtype == np.int32
      assert tuple(got) == brute_force(similarity)


def test_choose_returns_increasing_layers_for_nan():
  got = layer_maps.choose(np.full((3, 4), np.nan))
  assert np.all(np.diff(got) > 0) and got[0] >= 0 and got[-1] < 4
