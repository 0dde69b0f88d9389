import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.models import attention
from kd.models import block_pairs
from kd.models import visibility

_SCALE = 0.3
_BLOCK = 8
_HEADS = 4


def _places(*lengths, left=0, right=0):
  """Places [1, L] of texts packed one after another, between paddings."""
  positions = np.concatenate([np.arange(n) for n in lengths])
  ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
  padded = [np.pad(x, (left, right))[None] for x in (positions, ids)]
  return visibility.Places(*(jnp.asarray(x, jnp.int32) for x in padded))


def _heads(length, seed=0):
  """Query, key, value and the gradient of what is attended."""
  random = np.random.default_rng(seed)
  counts = (_HEADS, 2, 2, _HEADS)
  return [random.normal(size=(1, length, n, 8)) for n in counts]


def _run(attend, arrays, dtype=jnp.float32):
  """What attend gives, and its gradients by query, key and value."""
  *inputs, gradient = (jnp.asarray(x, dtype) for x in arrays)
  out, pull = jax.vjp(jax.jit(attend), *inputs)
  return [np.asarray(x, np.float64) for x in (out, *pull(gradient))]


def _exact(arrays, seen):
  """The same in float64, head by head; seen [L, L]."""
  query, key, value, gradient = (x[0] for x in arrays)
  made = [np.zeros_like(x) for x in (query, query, key, value)]
  for n in range(query.shape[1]):
    g = n // (query.shape[1] // key.shape[1])
    q, k, v, d = query[:, n], key[:, g], value[:, g], gradient[:, n]
    chance = np.where(seen, np.exp(q @ k.T * _SCALE), 0)
    chance /= np.maximum(chance.sum(-1, keepdims=True), 1e-300)
    d_chance = d @ v.T
    mean = (chance * d_chance).sum(-1, keepdims=True)
    d_scores = chance * (d_chance - mean) * _SCALE
    made[0][:, n] = chance @ v
    made[1][:, n] = d_scores @ k
    made[2][:, g] += d_scores.T @ q
    made[3][:, g] += chance.T @ d
  return [x[None] for x in made]


def _seen(places, window):
  """Who sees whom, [L, L], by the words of the contract."""
  ids = np.asarray(places.segment_ids)[0]
  i, j = np.ogrid[: len(ids), : len(ids)]
  near = i - j < (window or len(ids))
  return (ids[:, None] == ids) & (ids[:, None] > 0) & (j <= i) & near


_FORMS = [attention.in_slices, block_pairs.attend]


@pytest.mark.parametrize('form', _FORMS)
@pytest.mark.parametrize('window', [None, 1, 3, 8, 9, 20, 50])
def test_blocks_equal_the_formula(window, form):
  """37 positions in blocks of 8: no multiple, and borders within segments."""
  places = _places(15, 13, 4, left=2, right=3)
  arrays = _heads(37)
  # Padding's own results get no gradient, and of slices they mean nothing.
  arrays[-1] *= (np.asarray(places.segment_ids) > 0)[..., None, None]
  sight = visibility.Sight(places, window)
  found = _run(lambda *x: form(*x, sight, _SCALE, _BLOCK), arrays)
  wanted = _exact(arrays, _seen(places, window))
  if form is attention.in_slices:
    found[0][:, np.asarray(places.segment_ids)[0] == 0] = 0
  for got, exact in zip(found, wanted, strict=True):
    np.testing.assert_allclose(got, exact, atol=3e-6)


@pytest.mark.parametrize('form', _FORMS)
def test_padding_and_large_scores_stay_finite(form):
  places = _places(9, left=9, right=9)
  arrays = _heads(27)
  arrays[0] *= 1e3
  sight = visibility.Sight(places, 4)
  found = _run(lambda *x: form(*x, sight, _SCALE, _BLOCK), arrays)
  assert all(np.isfinite(x).all() for x in found)


@pytest.mark.parametrize('form', _FORMS)
@pytest.mark.parametrize('window', [None, 5])
def test_a_segment_is_bit_blind_to_the_one_before(window, form):
  """Both reach over borders of blocks and further than the window."""
  first, second = 21, 19
  sight = visibility.Sight(_places(first, second), window)
  arrays, others = _heads(first + second), _heads(first + second, seed=1)
  others = [100 * x for x in others]
  for x, other in zip(arrays, others, strict=True):
    other[:, first:] = x[:, first:]
  attend = lambda *x: form(*x, sight, _SCALE, _BLOCK)
  for got, other in zip(_run(attend, arrays), _run(attend, others)):
    np.testing.assert_array_equal(got[:, first:], other[:, first:])


def test_bfloat16_is_as_close_to_the_formula_as_all_scores_at_once():
  places = _places(64)
  arrays = [np.asarray(jnp.bfloat16(x), np.float64) for x in _heads(64)]
  seen = visibility.mask(places, places, None)
  sight = visibility.Sight(places, None)
  wanted = _exact(arrays, _seen(places, None))

  def error(attend):
    found = _run(attend, arrays, jnp.bfloat16)
    return [np.abs(x - y).mean() for x, y in zip(found, wanted, strict=True)]

  blocks = error(lambda *x: block_pairs.attend(*x, sight, _SCALE, _BLOCK))
  whole = error(lambda *x: attention.dense(*x, seen, _SCALE))
  assert (np.array(blocks) < 1.25 * np.array(whole)).all()


def _gradient(length, window):
  """The gradient as a function of abstract arrays, and these."""

  def run(query, key, value, places):
    sight = visibility.Sight(places, window)
    out = attention.causal(query, key, value, sight, _SCALE)
    return out.astype(jnp.float32).sum()

  shapes = [
    jax.ShapeDtypeStruct((1, length, n, 8), jnp.float32) for n in (4, 1)
  ]
  ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
  places = visibility.Places(ids, ids)
  arguments = (shapes[0], shapes[1], shapes[1], places)
  return jax.jit(jax.grad(run, (0, 1, 2))), arguments


@pytest.mark.parametrize('window, pairs', [(None, 36), (512, 15), (513, 15)])
def test_hidden_pairs_of_blocks_are_not_computed(window, pairs):
  """Of 8 x 8 pairs of blocks one half, or each block and the one before."""
  gradient, arguments = _gradient(4096, window)
  text = str(gradient.trace(*arguments).jaxpr)
  assert text.count(f'length={pairs}\n') == 2  # Forward and backward.


@pytest.mark.parametrize('window', [None, 512])
def test_scores_of_long_rows_are_not_kept(window):
  length = 4096
  gradient, arguments = _gradient(length, window)
  used = gradient.lower(*arguments).compile().memory_analysis()
  assert (
    used.temp_size_in_bytes < _HEADS * length**2
  )  # A quarter of the scores.
