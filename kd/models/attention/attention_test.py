import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import attention_mask
from kd.models.attention import attention
from kd.models.attention import attention_cases as cases
from kd.models.attention import blockwise_attention

_BLOCK = 8

_FORMS = [attention.in_slices, blockwise_attention.attend]


@pytest.mark.parametrize('form', _FORMS)
@pytest.mark.parametrize('window', [None, 1, 3, 8, 9, 20, 50])
def test_blocks_equal_the_formula(window, form):
  """37 positions, not a multiple of the block 8; borders within segments."""
  places = cases.places(15, 13, 4, left=2, right=3)
  arrays = cases.heads(37)
  # Results at padding get no gradient; those of slices are meaningless.
  arrays[-1] *= (np.asarray(places.segment_ids) > 0)[..., None, None]
  mask = attention_mask.AttentionMask(places, window)
  found = cases.run(lambda *x: form(*x, mask, cases.SCALE, _BLOCK), arrays)
  wanted = cases.exact(arrays, cases.seen(places, window))
  if form is attention.in_slices:
    found[0][:, np.asarray(places.segment_ids)[0] == 0] = 0
  for got, exact in zip(found, wanted, strict=True):
    np.testing.assert_allclose(got, exact, atol=3e-6)


@pytest.mark.parametrize('form', _FORMS)
def test_padding_and_large_scores_stay_finite(form):
  places = cases.places(9, left=9, right=9)
  arrays = cases.heads(27)
  arrays[0] *= 1e3
  mask = attention_mask.AttentionMask(places, 4)
  found = cases.run(lambda *x: form(*x, mask, cases.SCALE, _BLOCK), arrays)
  assert all(np.isfinite(x).all() for x in found)


@pytest.mark.parametrize('form', _FORMS)
@pytest.mark.parametrize('window', [None, 5])
def test_segments_are_bit_independent_of_earlier_ones(window, form):
  """Both segments cross borders of blocks and are longer than the window."""
  first, second = 21, 19
  mask = attention_mask.AttentionMask(cases.places(first, second), window)
  arrays, others = (
    cases.heads(first + second),
    cases.heads(first + second, seed=1),
  )
  others = [100 * x for x in others]
  for x, other in zip(arrays, others, strict=True):
    other[:, first:] = x[:, first:]
  attend = lambda *x: form(*x, mask, cases.SCALE, _BLOCK)
  for got, other in zip(cases.run(attend, arrays), cases.run(attend, others)):
    np.testing.assert_array_equal(got[:, first:], other[:, first:])


def test_bfloat16_is_as_close_to_the_formula_as_all_scores_at_once():
  places = cases.places(64)
  arrays = [np.asarray(jnp.bfloat16(x), np.float64) for x in cases.heads(64)]
  seen = attention_mask.visible(places, places, None)
  mask = attention_mask.AttentionMask(places, None)
  wanted = cases.exact(arrays, cases.seen(places, None))

  def error(attend):
    found = cases.run(attend, arrays, jnp.bfloat16)
    return [np.abs(x - y).mean() for x, y in zip(found, wanted, strict=True)]

  blocks = error(
    lambda *x: blockwise_attention.attend(*x, mask, cases.SCALE, _BLOCK)
  )
  whole = error(lambda *x: attention.dense(*x, seen, cases.SCALE))
  assert (np.array(blocks) < 1.25 * np.array(whole)).all()


def _gradient(length, window):
  """The gradient as a function of abstract arrays, and these arrays."""

  def run(query, key, value, places):
    mask = attention_mask.AttentionMask(places, window)
    out = attention.causal(query, key, value, mask, cases.SCALE, attention.XLA)
    return out.astype(jnp.float32).sum()

  shapes = [
    jax.ShapeDtypeStruct((1, length, n, 8), jnp.float32) for n in (4, 1)
  ]
  ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
  places = attention_mask.Positions(ids, ids)
  arguments = (shapes[0], shapes[1], shapes[1], places)
  return jax.jit(jax.grad(run, (0, 1, 2))), arguments


@pytest.mark.parametrize('window, pairs', [(None, 36), (512, 15), (513, 15)])
def test_masked_pairs_of_blocks_are_not_computed(window, pairs):
  """Half of 8 x 8 pairs of blocks, or each block and the one before."""
  gradient, arguments = _gradient(4096, window)
  text = str(gradient.trace(*arguments).jaxpr)
  assert text.count(f'length={pairs}\n') == 2  # Forward and backward.


@pytest.mark.parametrize('window', [None, 512])
def test_scores_of_long_rows_are_not_saved(window):
  length = 4096
  gradient, arguments = _gradient(length, window)
  used = gradient.lower(*arguments).compile().memory_analysis()
  assert (
    used.temp_size_in_bytes < cases.HEADS * length**2
  )  # A quarter of the scores.
