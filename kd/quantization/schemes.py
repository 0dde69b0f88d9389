"""Schemes that represent a matrix by low-bit codes and scales.

A scheme divides the inputs of a matrix [*, I, O] into blocks, for each output.
A block's values are its codes times its scale. All arithmetic is float32.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from kd.core import types

Array = types.Array

_FP8 = jnp.float8_e4m3fn
_FP8_MOST = 448.0  # The largest finite value of e4m3fn.


@dataclasses.dataclass(frozen=True)
class Scheme:
  """A scheme; see SCHEMES.

  Attributes:
    name: its name in SCHEMES.
    code_dtype: data type of codes in memory.
    scale_dtype: data type of scales.
    block: number of inputs that share a scale; None for all inputs.
    scale_of: maps blocks [*, I / block, block, O] to scales with a block axis
      of size 1.
    lowest: smallest code.
    highest: largest code.
    rounded: maps values in units of a scale to codes, as float32.
  """

  name: str
  code_dtype: jnp.dtype
  scale_dtype: jnp.dtype
  block: int | None
  scale_of: Callable[[Array], Array]
  lowest: float
  highest: float
  rounded: Callable[[Array], Array]

  def quantize(self, matrix: Array) -> tuple[Array, Array]:
    """Returns codes [*, I, O] and scales [*, I / block, O] of a matrix."""
    blocks = self._blocks(matrix.astype(jnp.float32))
    scales = self.scale_of(blocks)
    codes = self._codes(blocks, scales)
    return (
      codes.astype(self.code_dtype).reshape(matrix.shape),
      scales[..., 0, :].astype(self.scale_dtype),
    )

  def dequantize(self, codes: Array, scales: Array) -> Array:
    """Returns the float32 matrix [*, I, O] of codes and scales."""
    blocks = self._blocks(codes.astype(jnp.float32))
    scales = scales.astype(jnp.float32)[..., None, :]
    return (blocks * scales).reshape(codes.shape)

  def units(self, matrix: Array) -> Array:
    """Returns the matrix [*, I, O] in units of its blocks' scales."""
    blocks = self._blocks(matrix.astype(jnp.float32))
    return _divided(blocks, self.scale_of(blocks)).reshape(matrix.shape)

  def steps(self, matrix: Array) -> Array:
    """Returns the scale's magnitude [*, I, O] for each value of a matrix."""
    blocks = self._blocks(matrix.astype(jnp.float32))
    scales = jnp.abs(self.scale_of(blocks))
    return jnp.broadcast_to(scales, blocks.shape).reshape(matrix.shape)

  def is_inside(self, matrix: Array) -> Array:
    """Returns bool [*, I, O], whether a value is in the range of the codes.

    Other values are clipped to the nearest code, so they have no gradient.
    """
    units = self.units(matrix)
    # Half a step beyond the outermost codes still rounds to them.
    return (units > self.lowest - 0.5) & (units < self.highest + 0.5)

  def check(self, inputs: int) -> str:
    """Returns why this many inputs can't be divided into blocks, or ''."""
    if self.block and inputs % self.block:
      return f'{inputs} inputs, not a multiple of {self.block}'
    return ''

  def _blocks(self, matrix):
    *stack, inputs, outputs = matrix.shape
    block = self.block or inputs
    return matrix.reshape(*stack, inputs // block, block, outputs)

  def _codes(self, blocks, scales):
    rounded = self.rounded(_divided(blocks, scales))
    return jnp.clip(rounded, self.lowest, self.highest)


def _divided(blocks, scales):
  """Returns blocks in units of their scales; 0 where a scale is 0."""
  # As in ggml, a product with the inverse, which rounds twice.
  inverse = jnp.where(scales == 0, 0.0, 1.0 / jnp.where(scales == 0, 1, scales))
  return blocks * inverse


def _largest(blocks):
  return jnp.max(jnp.abs(blocks), axis=-2, keepdims=True)


def _signed_largest(blocks):
  """Returns each block's first value of largest magnitude."""
  at = jnp.argmax(jnp.abs(blocks), axis=-2, keepdims=True)
  return jnp.take_along_axis(blocks, at, axis=-2)


def _half_away(x):
  """Rounds halves away from zero, like C's roundf."""
  return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def _symmetric(name, bits, block=None):
  most = 2 ** (bits - 1) - 1
  return Scheme(
    name=name,
    code_dtype=jnp.int8 if bits == 8 else jnp.int4,
    scale_dtype=jnp.float32,
    block=block,
    scale_of=lambda blocks: _largest(blocks) / most,
    lowest=-most,
    highest=most,
    rounded=jnp.round,
  )


_ALL = (
  _symmetric('int8', 8),
  _symmetric('int4', 4),
  _symmetric('int4_32', 4, 32),
  _symmetric('int4_128', 4, 128),
  Scheme(
    name='q8_0',
    code_dtype=jnp.int8,
    scale_dtype=jnp.float16,
    block=32,
    scale_of=lambda blocks: _largest(blocks) / 127,
    lowest=-127,
    highest=127,
    rounded=_half_away,
  ),
  Scheme(
    name='q4_0',
    code_dtype=jnp.int4,
    scale_dtype=jnp.float16,
    block=32,
    # The value of largest magnitude becomes -8, the only code without a
    # positive counterpart.
    scale_of=lambda blocks: _signed_largest(blocks) / -8,
    lowest=-8,
    highest=7,
    rounded=lambda x: jnp.trunc(x + 8.5) - 8,
  ),
  Scheme(
    name='fp8',
    code_dtype=_FP8,
    scale_dtype=jnp.float32,
    block=None,
    scale_of=lambda blocks: _largest(blocks) / _FP8_MOST,
    lowest=-_FP8_MOST,
    highest=_FP8_MOST,
    # Larger values would be NaN.
    rounded=lambda x: (
      jnp.clip(x, -_FP8_MOST, _FP8_MOST).astype(_FP8).astype(jnp.float32)
    ),
  ),
)
# By name. int8 and int4 have a scale per output, or per block of 32 or 128
# inputs; q8_0 and q4_0 are ggml's; fp8 is e4m3 with a scale per output.
SCHEMES = {scheme.name: scheme for scheme in _ALL}


@jax.custom_vjp
def _straight_through(matrix, rounded, is_inside):
  """Returns `rounded`; the gradient passes to `matrix` where is_inside."""
  del matrix, is_inside
  return rounded


def _forward(matrix, rounded, is_inside):
  del matrix
  return rounded, is_inside


def _backward(is_inside, gradient):
  return jnp.where(is_inside, gradient, 0), None, None


_straight_through.defvjp(_forward, _backward)


def fake_quantize(scheme: Scheme, matrix: Array) -> Array:
  """Rounds a matrix [*, I, O] to the values that the scheme can represent.

  Straight-through estimator (arXiv 1308.3432): inside the scheme's range a
  value has the gradient of the rounded value, outside a gradient of zero.
  """
  rounded = scheme.dequantize(*scheme.quantize(matrix))
  return _straight_through(
    matrix, rounded.astype(matrix.dtype), scheme.is_inside(matrix)
  )


@dataclasses.dataclass(frozen=True)
class RoundedInputs:
  """Rounds the inputs of a product; see layers.RoundInputs.

  Attributes:
    scheme: name of the scheme in SCHEMES.
  """

  scheme: str

  def __call__(self, x: Array, axes: int, input_range: Array | None) -> Array:
    """Rounds each vector in the last axes of x by its own largest value."""
    del input_range
    shape = x.shape
    vectors = x.reshape(*shape[: x.ndim - axes], -1, 1)
    return fake_quantize(SCHEMES[self.scheme], vectors).reshape(shape)


# Names of the schemes for inputs.
INPUTS = ('int8', 'fp8')
# The values of student.quantize.activation_range.
RANGES = POSITION, RUNNING = ('position', 'running')
