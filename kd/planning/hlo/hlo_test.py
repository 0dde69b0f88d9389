"""Tests operation counts of compiled programs against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.planning.hlo import hlo

_X = jax.ShapeDtypeStruct((8, 32), jnp.float32)
_W = jax.ShapeDtypeStruct((32, 32), jnp.float32)
_STACK = jax.ShapeDtypeStruct((5, 32, 32), jnp.float32)
_ONE = 2 * 8 * 32 * 32  # of x @ w


def _compile(function, *arguments):
  return jax.jit(function).lower(*arguments).compile()


def _flops(function, *arguments, unknown_trips=None):
  return hlo.flops(_compile(function, *arguments).as_text(), unknown_trips)


def _layers(x, stack):
  return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), ()), x, stack)[0]


def test_products():
  assert _flops(jnp.matmul, _X, _W) == _ONE
  batched = jax.ShapeDtypeStruct((3, 8, 32), jnp.float32)
  dot = lambda x, y: jnp.einsum('bid,bjd->bij', x, y)
  assert _flops(dot, batched, batched) == 3 * 2 * 8 * 8 * 32
  two = lambda x, y: jnp.einsum('bid,bie->de', x, y)
  assert _flops(two, batched, batched) == 2 * 3 * 8 * 32 * 32


def test_scans_count_their_bodies_once_per_iteration():
  assert _flops(_layers, _X, _STACK) == 5 * _ONE

  def nested(x, stack):
    body = lambda x, w: (_layers(x, stack) @ w, ())
    return jax.lax.scan(body, x, stack[:3])[0]

  assert _flops(nested, _X, _STACK) == 3 * (5 + 1) * _ONE


def test_gradients_and_rematerialization():
  loss = lambda x, stack: jnp.sum(_layers(x, stack) ** 2)
  # Both gradients of each product are as large as it.
  assert _flops(jax.grad(loss, (0, 1)), _X, _STACK) == 3 * 5 * _ONE

  def remat(x, stack):
    def body(x, w):
      hidden = jnp.tanh(x @ w)
      return jnp.tanh(hidden @ w), ()

    body = jax.checkpoint(body, prevent_cse=False)
    return jnp.sum(jax.lax.scan(body, x, stack)[0] ** 2)

  # Both products of a body forward, again, and their four gradients.
  assert _flops(jax.grad(remat, (0, 1)), _X, _STACK) == 5 * (2 + 2 + 4) * _ONE


def test_a_conditional_counts_as_its_most_expensive_branch():
  def choose(x, w, i):
    return jax.lax.switch(
      i, (lambda: x, lambda: jnp.tanh(x @ w) @ w, lambda: jnp.tanh(x @ w))
    )

  index = jax.ShapeDtypeStruct((), jnp.int32)
  assert _flops(choose, _X, _W, index) == 2 * _ONE


def test_loops_that_depend_on_data():
  def repeat(x, w, n):
    return jax.lax.fori_loop(0, n, lambda _, x: jnp.tanh(x @ w), x)

  count = jax.ShapeDtypeStruct((), jnp.int32)
  assert _flops(repeat, _X, _W, count, unknown_trips=7) == 7 * _ONE
  with pytest.raises(ValueError, match='depends on data'):
    _flops(repeat, _X, _W, count)


def test_convolution():
  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (2,), [(3, 1)], lhs_dilation=(3,), rhs_dilation=(2,)
    )

  x = jax.ShapeDtypeStruct((2, 4, 9), jnp.float32)  # batch, feature, space
  kernel = jax.ShapeDtypeStruct((5, 4, 6), jnp.float32)
  # By brute force: the kernel positions that overlap an input.
  dilated = np.zeros(3 + 8 * 3 + 1 + 1, bool)
  dilated[3 : 3 + 8 * 3 + 1 : 3] = True
  starts = range(0, len(dilated) - 2 * 5, 2)
  meetings = sum(dilated[s + 2 * k] for s in starts for k in range(6))
  expected = 2 * 2 * 5 * 4 * meetings
  assert _flops(convolve, x, kernel) == expected


_TPU = """
HloModule jit_f, is_scheduled=true

%cond (p: (s32[], f32[4,6,8])) -> pred[] {
  %n = s32[]{:T(128)} constant(7)
  %p = (s32[]{:T(128)}, f32[4,6,8]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%fused (a: bf16[5,4,6], b: bf16[7,4,6]) -> f32[4,5,7] {
  %a = bf16[5,4,6]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[7,4,6]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %c = f32[4,5,7]{1,2,0:T(8,128)} convolution(%a, %b), \
window={size=4 stride=3 lhs_dilate=4}, dim_labels=b0f_o0i->0bf
}

%body (p.1: (s32[], f32[4,6,8])) -> (s32[], f32[4,6,8]) {
  %p.1 = (s32[]{:T(128)}, /*index=1*/f32[4,6,8]{2,1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %s.1 = f32[4,6,8]{2,1,0:T(8,128)} get-tuple-element(%p.1), index=1
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i.1, %two)
  %x = bf16[5,4,6]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  %y = bf16[7,4,6]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  %f = f32[4,5,7]{1,2,0:T(8,128)} fusion(%x, %y), kind=kOutput, calls=%fused
  ROOT %out = (s32[]{:T(128)}, f32[4,6,8]{2,1,0}) tuple(%next, %s.1)
}

ENTRY %main (s: f32[4,6,8]) -> f32[4,6,8] {
  %s = f32[4,6,8]{2,1,0:T(8,128)} parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %start = s32[]{:T(128)} copy(%one)
  %t = (s32[]{:T(128)}, f32[4,6,8]{2,1,0:T(8,128)}) tuple(%start, %s)
  %w = (s32[]{:T(128)}, f32[4,6,8]{2,1,0:T(8,128)}) while(%t), \
condition=%cond, body=%body
  ROOT %r = f32[4,6,8]{2,1,0:T(8,128)} get-tuple-element(%w), index=1
}
"""


def test_the_text_of_the_tpu_compiler():
  # A dot of 4 batches, 5 x 6 by 6 x 7, as a dilated convolution; a loop over 1,
  # 3 and 5, which follows only from its condition and its body.
  assert hlo.flops(_TPU, None) == 3 * 4 * 2 * 5 * 6 * 7
