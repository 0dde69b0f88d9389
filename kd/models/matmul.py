"""Multiplies by weights, for whole rows or a slice of positions at a time."""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import computed
from kd.partitioning import rules

Array = types.Array

# Maximum number of positions of a row that a device computes at a time.
_SLICE = 8192

# Logical axis of vectors whose "gradients" are maxima over positions.
MAXIMA = 'maxima'


def project(x: Array, w: Array | computed.Operand) -> Array:
  """Contracts x [B, L, ...] with the first axes of w [..., *]: [B, L, *].

  It is one product of two matrices, since XLA makes slow transposed copies on
  CPU for gradients that sum over B and L as two axes. Rows that are sharded
  over devices are not joined, which would gather them.
  """
  if isinstance(w, computed.Operand):
    rows = w.multiply(x.reshape(x.shape[0] * x.shape[1], -1), x.dtype)
    return rows.reshape(*x.shape[:2], *w.outputs)
  shared = x.shape[2:]
  rest = w.shape[len(shared) :]
  matrix = w.astype(x.dtype).reshape(math.prod(shared), -1)
  flat = x.reshape(*x.shape[:2], math.prod(shared))
  if rules.shards('length', x.shape[1]) == 1:
    flat = flat.reshape(-1, math.prod(shared))
  return (flat @ matrix).reshape(*x.shape[:2], *rest)


def by_rows(x: Array, w: Array, dtype: Any) -> Array:
  """Computes x [B, I] times the transpose of w [O, I], for few rows of x.

  Returns:
    [B, O] in `dtype`.
  """

  def plain(x, w):
    return jnp.matmul(x, w.T, preferred_element_type=dtype)

  def on_cpu(x, w):
    # The barrier keeps XLA from moving x back to the left and copying w to read
    # it by columns, which takes 1.8 times as long.
    product = jnp.matmul(w, x.T, preferred_element_type=dtype)
    return jax.lax.optimization_barrier(product).T

  if len(x) == 1 or x.dtype != jnp.float32:
    return plain(x, w)
  return jax.lax.platform_dependent(x, w, cpu=on_cpu, default=plain)


@struct.dataclass
class DenseMatrix(computed.Operand):
  """A matrix [*inputs, *outputs] in the layout of products with few rows.

  Attributes:
    array: [O, I].
    outputs: sizes of the output axes.
  """

  array: Array
  outputs: tuple[int, ...] = struct.field(pytree_node=False)

  def multiply(self, x: Array, dtype: Any) -> Array:
    """Multiplies rows by the matrix; see computed.Operand."""
    return by_rows(x, self.array, dtype)


def logits(hidden: Array, table: Array | computed.Operand) -> Array:
  """Computes logits, float32 [B, V], of hidden [B, D] by a table [V, D]."""
  if isinstance(table, computed.Operand):
    return table.multiply(hidden, jnp.float32)
  return by_rows(hidden, table, jnp.float32)


def by_position(
  function: Callable[..., Array],
  x: Array,
  weights: Sequence[Array],
  names: Sequence[tuple[str | None, ...]],
) -> Array:
  """Computes the position-wise `function(x, *weights)`.

  Long rows are computed a slice of positions at a time, and the gradient
  recomputes each slice, so that intermediate values exist only for one slice.

  Args:
    function: maps [B, L, D] and the weights to [B, L, D]; static.
    x: [B, L, D].
    weights: matrices and vectors of any type; matrices are cast to that of x.
    names: logical axes of each of the weights.

  Returns:
    [B, L, D].
  """
  if slices(x.shape[1]) == 1:
    return function(x, *weights)
  return _sliced(function, tuple(names), x, tuple(weights))


def sum_by_position(
  function: Callable[[Array, Array], types.PyTree], x: Array, weights: Array
) -> types.PyTree:
  """Computes `function(x, weights)`, which sums over positions.

  Long rows are computed a slice of positions at a time.

  Args:
    function: maps [B, L, D] and [B, L] to sums over L; positions of weight 0
      add nothing.
    x: [B, L, D].
    weights: float [B, L].
  """
  if slices(x.shape[1]) == 1:
    return function(x, weights)
  cut = _cut(x), _cut(weights[..., None])

  def step(sums, part):
    x, weights = part
    added = function(x, weights[..., 0])
    return jax.tree.map(jnp.add, sums, added), None

  first = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), cut
  )
  shapes = jax.eval_shape(lambda x, w: function(x, w[..., 0]), *first)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return jax.lax.scan(step, zeros, cut)[0]


def slices(length: int) -> int:
  """Returns the number of slices that by_position uses for these rows."""
  return slices_on(rules.shards('length', length), length)


def slices_on(shards: int, length: int) -> int:
  """Returns the number of slices for rows that are split over `shards`."""
  return -(-length // (shards * _SLICE))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sliced(function, names, x, weights):
  weights = _gathered(weights, names, x.dtype)
  step = lambda _, part: (None, function(part, *weights))
  _, out = jax.lax.scan(step, None, _cut(x))
  return _joined(out, x.shape[1])


def _forward(function, names, x, weights):
  return _sliced(function, names, x, weights), (x, weights)


def _backward(function, names, residuals, gradient):
  x, weights = residuals
  gathered = _gathered(weights, names, x.dtype)

  def step(sums, arrays):
    part, d_part = arrays
    _, pull = jax.vjp(function, part, *gathered)
    d_part, *d_weights = pull(d_part)
    # Each slice is summed over devices, so that the sums of slices, in float32,
    # are sharded.
    sums = tuple(
      (jnp.maximum if MAXIMA in n else jnp.add)(
        s, rules.constrain(d, n).astype(jnp.float32)
      )
      for s, d, n in zip(sums, d_weights, names, strict=True)
    )
    return sums, d_part

  zeros = tuple(
    rules.constrain(jnp.zeros(w.shape, jnp.float32), n)
    for w, n in zip(weights, names, strict=True)
  )
  sums, d_x = jax.lax.scan(step, zeros, (_cut(x), _cut(gradient)))
  d_weights = tuple(
    s.astype(w.dtype) for s, w in zip(sums, weights, strict=True)
  )
  return _joined(d_x, x.shape[1]), d_weights


_sliced.defvjp(_forward, _backward)


def _gathered(weights, names, dtype):
  """Returns the weights for products: matrices in `dtype`, gathered once."""

  def one(w, axes):
    # Vectors are norms' parameters, which are used in float32.
    w = w.astype(dtype) if w.ndim > 1 else w
    return rules.constrain(w, [None if n == 'embed' else n for n in axes])

  return tuple(one(*pair) for pair in zip(weights, names, strict=True))


def _cut(x):
  """Cuts [B, L, D] into [slices, B, l, D], the same on each device."""
  batch, length, width = x.shape
  shards, count = rules.shards('length', length), slices(length)
  x = x.reshape(batch, shards, length // shards, width)
  x = jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % count), (0, 0)))
  x = x.reshape(batch, shards, count, -1, width)
  x = jnp.moveaxis(x, 2, 0).reshape(count, batch, -1, width)
  return rules.constrain(x, (None, 'batch', 'length', None))


def _joined(x, length):
  """Inverts _cut."""
  count, batch, _, width = x.shape
  shards = rules.shards('length', length)
  x = jnp.moveaxis(x.reshape(count, batch, shards, -1, width), 0, 2)
  x = x.reshape(batch, shards, -1, width)[:, :, : length // shards]
  x = x.reshape(batch, length, width)
  return rules.constrain(x, ('batch', 'length', None))
