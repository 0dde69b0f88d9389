"""Tests arrays of compiled programs against those of the source."""

import jax
import jax.numpy as jnp

from tests import hlo_arrays

_X = jax.ShapeDtypeStruct((8, 32), jnp.float32)
_W = jax.ShapeDtypeStruct((32, 32), jnp.float32)
_STACK = jax.ShapeDtypeStruct((5, 32, 32), jnp.float32)


def _text(function, *arguments):
  return jax.jit(function).lower(*arguments).compile().as_text()


def test_arrays_inside_a_fusion_do_not_count():
  def fused(x, w):
    wide = jnp.tanh(x @ w)[:, :, None] * x[:, None, :]  # [8, 32, 32]
    return jnp.sum(wide, axis=1)

  arrays = hlo_arrays.largest(_text(fused, _X, _W))
  assert arrays[0].shape == (32, 32)  # The argument w.
  sizes = [array.elements for array in arrays]
  assert sizes == sorted(sizes, reverse=True)


def test_arrays_saved_for_the_backward_pass_count():
  def loss(x, stack):
    step = lambda x, w: (jnp.tanh(x @ w), ())
    return jnp.sum(jax.lax.scan(step, x, stack)[0] ** 2)

  arrays = hlo_arrays.largest(_text(jax.grad(loss, 1), _X, _STACK))
  assert ('f32', (5, 8, 32)) in {(a.dtype, a.shape) for a in arrays}
