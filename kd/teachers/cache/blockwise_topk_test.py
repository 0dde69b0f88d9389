"""Compares blockwise passes over logits with float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.teachers.cache import blockwise_topk
from kd.teachers.cache import compression

_RULED_OUT = -1e9


def _logits(vocab_size):
  """Returns logits: ordinary, peaked, flat, with ties, most ruled out."""
  rng = np.random.default_rng(vocab_size)
  ordinary = rng.normal(0, 3, (3, vocab_size))
  peaked = rng.normal(0, 1, (2, vocab_size))
  peaked[0, vocab_size // 3] = 30  # The tail is 1e-9 or less.
  peaked[1, -1] = 70
  flat = np.full((1, vocab_size), 17.0)
  ties = rng.integers(0, 3, (1, vocab_size)).astype(float)
  sparse = np.full((2, vocab_size), _RULED_OUT)
  sparse[0, [0, vocab_size // 2, vocab_size - 1]] = 1.0, 2.0, 1.0
  sparse[1, vocab_size - 2 :] = -40.0, 30.0
  rows = [ordinary, peaked, flat, ties, sparse]
  return np.concatenate(rows).astype(np.float32)


def _logprobs(logits):
  wide = logits.astype(np.float64)
  below = wide - wide.max(1, keepdims=True)
  return below - np.log(np.exp(below).sum(1, keepdims=True))


def _log(x):
  with np.errstate(divide='ignore'):
    return np.log(x)


_SIZES = [(5, 3), (128, 128), (130, 130), (263, 20), (1000, 1), (1000, 1000)]


@pytest.mark.parametrize(('vocab_size', 'size'), _SIZES)
def test_most_likely_ids_entropy_and_tail_equal_float64(vocab_size, size):
  logits = _logits(vocab_size)
  whole = _logprobs(logits)
  seen = blockwise_topk.split(jnp.asarray(logits))
  wide = logits.astype(np.float64)
  np.testing.assert_allclose(
    seen.log_normalizer, wide[:, 0] - whole[:, 0], rtol=1e-6, atol=2e-6
  )
  entropy = -(np.exp(whole) * whole).sum(1)
  np.testing.assert_allclose(seen.entropy, entropy, 2e-5, 1e-6)
  ids, logprobs, tail = map(np.asarray, blockwise_topk.most_likely(seen, size))
  for row in range(len(logits)):
    # Ids are distinct and legal, and no other id is more likely.
    assert len(set(ids[row])) == size and ids[row].max() < vocab_size
    assert (np.diff(logits[row, ids[row]]) <= 0).all()
    left = np.delete(logits[row], ids[row])
    assert left.max(initial=-np.inf) <= logits[row, ids[row]].min()
    rest = np.exp(np.delete(whole[row], ids[row])).sum()
    # Relative accuracy: the same for a mass of 1e-13 as for 0.99.
    np.testing.assert_allclose(tail[row], _log(rest), rtol=1e-5, atol=1e-5)
  expected = np.take_along_axis(whole, ids, 1)
  np.testing.assert_allclose(logprobs, expected, rtol=1e-6, atol=1e-5)


def test_tails_have_a_small_relative_error():
  # The tail has 0.99 or 1e-9 of the mass.
  for share in (0.99, 1e-9):
    p = np.full(4000, share / 3999)
    p[1234] = 1 - share
    seen = blockwise_topk.split(jnp.log(jnp.asarray(p, jnp.float32))[None])
    _, _, tail = blockwise_topk.most_likely(seen, 1)
    beyond = 1 - share / 3999 if share > 0.5 and p[1234] < p[0] else share
    np.testing.assert_allclose(np.exp(tail), beyond, rtol=2e-5)


def _draw(logits, seed, draws):
  keys = jax.random.split(jax.random.key(seed), len(logits))
  draw = jax.jit(blockwise_topk.draw, static_argnums=2)
  return map(
    np.asarray, draw(blockwise_topk.split(jnp.asarray(logits)), keys, draws)
  )


def test_draws_have_the_teachers_frequencies():
  draws, repeats = 500, 40
  rng = np.random.default_rng(5)
  one = rng.normal(0, 2, 300).astype(np.float32)
  one[17], one[40:60] = 6.0, _RULED_OUT
  ids, counts = _draw(np.tile(one, (repeats, 1)), 0, draws)
  assert (counts.sum(1) == draws).all()
  assert ((ids >= 0) == (counts > 0)).all()
  for row in ids:
    used = row[row >= 0]
    assert (np.diff(used) > 0).all() and (row[len(used) :] == -1).all()
  found = np.zeros(300)
  np.add.at(found, np.maximum(ids, 0), counts)
  expected = np.exp(_logprobs(one[None])[0]) * draws * repeats
  assert (found[expected == 0] == 0).all()
  often = expected > 5
  other = (found[~often].sum() - expected[~often].sum()) ** 2
  square = ((found - expected)[often] ** 2 / expected[often]).sum()
  square += other / max(expected[~often].sum(), 1e-9)
  degrees = often.sum()
  # Mean and deviation of chi-square: five deviations.
  assert abs(square - degrees) < 5 * np.sqrt(2 * degrees), (square, degrees)


def test_draws_depend_only_on_their_keys():
  logits = _logits(263)
  ids, counts = _draw(logits, 3, 50)
  keys = jax.random.split(jax.random.key(3), len(logits))
  for n in (0, 4, 7):
    seen = blockwise_topk.split(jnp.asarray(logits[n : n + 1]))
    one, times = blockwise_topk.draw(seen, keys[n : n + 1], 50)
    np.testing.assert_array_equal(one[0], ids[n])
    np.testing.assert_array_equal(times[0], counts[n])


def _compress(method, logits):
  seen = compression.TokenOutputs(
    hidden=None,
    blocks=blockwise_topk.split(jnp.asarray(logits)),
    keys=jax.random.split(jax.random.key(0), len(logits)),
  )
  return jax.tree.map(np.asarray, method.compress(seen))


@pytest.mark.parametrize('mass', [1e-6, 0.5, 0.98])
@pytest.mark.parametrize('cap', [1, 7, 300])
def test_a_nucleus_is_the_fewest_ids_with_its_mass(mass, cap):
  logits = _logits(263)
  whole = np.exp(_logprobs(logits))
  compressed = _compress(
    compression.Method('nucleus', 'float16', cap, mass, 0), logits
  )
  for row in range(len(logits)):
    used = compressed.ids[row] >= 0
    ids = compressed.ids[row][used]
    assert not used[len(ids) :].any() and (np.diff(ids) > 0).all()
    assert (compressed.logprobs[row][~used] == -np.inf).all()
    p = np.sort(whole[row])[::-1]
    fewest = min(1 + int((np.cumsum(p) < mass - 1e-6).sum()), cap)
    most = min(1 + int((np.cumsum(p) < mass + 1e-6).sum()), cap)
    assert fewest <= len(ids) <= most
    np.testing.assert_allclose(
      np.sort(whole[row][ids])[::-1], p[: len(ids)], rtol=1e-5
    )
    rest = _log(np.delete(whole[row], ids).sum())
    # Ids that are ruled out have no mass, or exp(-1e9).
    tail, rest = np.maximum([compressed.tail_logprob[row], rest], -200)
    np.testing.assert_allclose(tail, rest, 1e-4, 1e-4)


def test_more_entries_than_ids_return_all_ids():
  logits = _logits(130)
  compressed = _compress(
    compression.Method('top_k', 'float16', 5000, 1.0, 0), logits
  )
  assert compressed.ids.shape == logits.shape
  assert (compressed.ids == np.arange(130)).all()
  np.testing.assert_allclose(compressed.logprobs, _logprobs(logits), 1e-6, 1e-5)
  assert (compressed.tail_logprob == -np.inf).all()


@pytest.mark.parametrize('drawn_at', [1.0, 2.0])
def test_stratified_keeps_likely_ids_and_draws_from_the_rest(drawn_at):
  exact, draws, repeats = 5, 50, 300
  rng = np.random.default_rng(7)
  one = rng.normal(0, 2, 200).astype(np.float32)
  one[60:80] = _RULED_OUT
  method = compression.Method(
    'stratified', 'float16', exact + draws, 1.0, draws, drawn_at
  )
  compressed = _compress(method, np.tile(one, (repeats, 1)))
  p = np.exp(_logprobs(one[None])[0])
  likely = np.sort(np.argsort(-p)[:exact])
  found = np.zeros(200)
  for ids, counts, logprobs, tail in zip(
    compressed.ids,
    compressed.counts,
    compressed.logprobs,
    compressed.tail_logprob,
    strict=True,
  ):
    used = ids >= 0
    assert (np.diff(ids[used]) > 0).all() and not counts[~used].any()
    np.testing.assert_array_equal(ids[used & (counts == 0)], likely)
    assert counts.sum() == draws
    np.testing.assert_allclose(np.exp(logprobs[used]), p[ids[used]], 1e-5)
    rest = np.delete(p, likely)
    np.testing.assert_allclose(np.exp(tail), rest.sum(), 1e-5)
    np.add.at(found, ids[used], counts[used])
  power = np.where(np.isin(np.arange(200), likely), 0.0, p ** (1 / drawn_at))
  if drawn_at == 1:
    assert compressed.log_rest is None
  else:
    np.testing.assert_allclose(compressed.log_rest, np.log(power.sum()), 1e-5)
  expected = power
  expected *= draws * repeats / expected.sum()
  assert (found[expected == 0] == 0).all()
  often = expected > 5
  square = ((found - expected)[often] ** 2 / expected[often]).sum()
  degrees = often.sum()
  assert abs(square - degrees) < 5 * np.sqrt(2 * degrees), (square, degrees)
