"""Matrices that are multiplied from their codes in memory.

No float copy of a whole matrix exists. On accelerators the compiler dequantizes
codes within the product. Its CPU backend does so only for a single row of
inputs. More rows are multiplied by a tile of a few outputs at a time, so that
the tile's float values stay in the processor's cache.
"""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import computed

Array = types.Array

_TILE = 2**20  # values
# XLA's CPU backend dequantizes within a product only for smaller vectors.
_VECTOR_BYTES = 2**14


@struct.dataclass
class CodeMatrix(computed.Operand, computed.Table):
  """A matrix [*inputs, *outputs] as codes and scales.

  Attributes:
    codes: [O, I]. Codes of 4 bits on one device are int8 [O, I / 2], with the
      first half of a block in the low bits and the second half in the high
      bits. Codes of fp8 are stored as uint8.
    scales: [O, blocks].
    outputs: sizes of the output axes.
    is_packed: whether a byte contains two codes.
  """

  codes: Array
  scales: Array
  outputs: tuple[int, ...] = struct.field(pytree_node=False)
  is_packed: bool = struct.field(pytree_node=False)

  def multiply(self, x: Array, dtype: Any) -> Array:
    """Multiplies rows by the matrix; see computed.Operand."""
    return self._multiply(x).astype(dtype)

  def _multiply(self, x):
    parts = self._parts(x)
    if _has_several_devices():
      # A scan over tiles would gather arrays that are sharded over devices.
      return _whole(parts, self)
    return jax.lax.platform_dependent(parts, self, cpu=_on_cpu, default=_whole)

  def rows(self, ids: Array) -> Array:
    """Returns the weights of some outputs; see computed.Table."""
    codes, scales = self.codes[ids], self.scales[ids].astype(jnp.float32)
    blocks = codes.reshape(*scales.shape, -1)
    halves = _unpacked(self, blocks)
    values = jnp.concatenate([h.astype(jnp.float32) for h in halves], axis=-1)
    return (values * scales[..., None]).reshape(*ids.shape, -1)

  def _parts(self, x):
    """Returns the inputs of each matrix from `_matrices`."""
    if not self.is_packed:
      return [x]
    halves = x.reshape(x.shape[0], self.scales.shape[1], 2, -1)
    return [halves[:, :, i].reshape(x.shape[0], -1) for i in range(2)]


def make(codes: Array, scales: Array, outputs: tuple[int, ...]) -> CodeMatrix:
  """Returns a matrix of codes and scales.

  Args:
    codes: [I, O].
    scales: [blocks, O].
    outputs: sizes of the output axes, whose product is O.
  """
  codes, scales = codes.T, scales.T
  block = codes.shape[1] // scales.shape[1]
  # An int4 takes a byte on CPU, so two are packed into one. Several devices
  # share the inputs, and each packed block would be on two of them.
  is_packed = (
    codes.dtype == jnp.int4 and block % 2 == 0 and not _has_several_devices()
  )
  if is_packed:
    low, high = jnp.split(
      codes.astype(jnp.int8).reshape(*scales.shape, block), 2, axis=-1
    )
    codes = ((high << 4) | (low & 15)).reshape(codes.shape[0], -1)
  elif codes.dtype == jnp.float8_e4m3fn:
    # XLA's CPU backend would convert a whole fp8 array before it is sliced.
    codes = jax.lax.bitcast_convert_type(codes, jnp.uint8)
  return CodeMatrix(codes, scales, outputs, is_packed)


def _has_several_devices():
  return jax.sharding.get_abstract_mesh().size > 1


def _unpacked(matrix, codes):
  """Returns codes as numbers: one array, or those of low and of high bits."""
  if matrix.is_packed:
    return [(codes << 4) >> 4, codes >> 4]
  if codes.dtype == jnp.uint8:
    return [jax.lax.bitcast_convert_type(codes, jnp.float8_e4m3fn)]
  return [codes]


def _matrices(matrix, codes, scales, dtype):
  """Returns matrices [outputs, inputs] whose products with `_parts` are summed.

  Per-channel scales are left out, since they multiply the sum.
  """
  halves = _unpacked(matrix, codes)
  if scales.shape[1] == 1:
    return [half.astype(dtype) for half in halves]
  block = codes.shape[1] // scales.shape[1]
  each = jnp.broadcast_to(
    scales.astype(jnp.float32)[:, :, None], (*scales.shape, block)
  ).reshape(codes.shape)
  return [(half.astype(jnp.float32) * each).astype(dtype) for half in halves]


def _scaled(y, scales):
  """Multiplies y [B, O] by the scales if they are per channel."""
  if scales.shape[1] > 1:
    return y
  return y * scales[:, 0].astype(jnp.float32)


def _whole(parts, matrix):
  """Computes all outputs in one product of each part."""
  matrices = _matrices(matrix, matrix.codes, matrix.scales, parts[0].dtype)
  y = sum(
    jnp.matmul(x, w.T, preferred_element_type=jnp.float32)
    for x, w in zip(parts, matrices, strict=True)
  )
  return _scaled(y, matrix.scales)


def _on_cpu(parts, matrix):
  """Computes the same as `_whole`, in float32."""
  parts = [x.astype(jnp.float32) for x in parts]
  # Make codes depend on the inputs. Otherwise XLA would dequantize all of them
  # before a loop of decoding steps.
  parts, matrix = jax.lax.optimization_barrier((parts, matrix))
  is_short_vector = len(parts[0]) == 1 and parts[0].nbytes < _VECTOR_BYTES
  # Within a product, packed codes take three times as long as by tiles.
  are_bytes = matrix.codes.dtype == jnp.int8 and not matrix.is_packed
  if is_short_vector and are_bytes:
    matrices = _matrices(matrix, matrix.codes, matrix.scales, jnp.float32)
    # Otherwise XLA would fuse the addition, and not the dequantization, into a
    # product.
    y = sum(
      jax.lax.optimization_barrier(x @ w.T)
      for x, w in zip(parts, matrices, strict=True)
    )
    return _scaled(y, matrix.scales)
  outputs, inputs = len(matrix.codes), sum(x.shape[1] for x in parts)
  # At least two tiles. Outside of a loop XLA would dequantize matrices early,
  # and those of all layers would exist at the same time.
  size = min(max(1, _TILE // inputs), -(-outputs // 2))

  def add_tile(number, y):
    # The last tile starts earlier, so that all have the same size.
    start = jnp.minimum(number * size, outputs - size)
    codes, scales = (
      jax.lax.dynamic_slice_in_dim(x, start, size)
      for x in (matrix.codes, matrix.scales)
    )
    matrices = _matrices(matrix, codes, scales, jnp.float32)
    tile = sum(w @ x.T for x, w in zip(parts, matrices, strict=True))
    return jax.lax.dynamic_update_slice_in_dim(y, tile, start, 0)

  y = jnp.zeros((outputs, len(parts[0])), jnp.float32)
  y = jax.lax.fori_loop(0, -(-outputs // size), add_tile, y)
  return _scaled(y.T, matrix.scales)
