"""Compares hidden states through a trained linear projection.

The student's hidden state passes through an optional norm, dropout and a
projection to the teacher's width. These parameters are trained with the student
but are not part of it.
"""

from collections.abc import Mapping
import functools

import jax
import jax.numpy as jnp

from kd.core import types

Array = types.Array

# The same as in Gemma's norms.
_EPSILON = 1e-6


def _rounded(x, dtype):
  """Rounds x to the precision of dtype, at most one bit below float32.

  Both sides of a loss are rounded in the same way, so that equal states have
  equal bits. A cast is not enough: the compiler removes a cast and its inverse,
  and may fuse one side's last product, unrounded, with the subtraction.
  """
  kind = jnp.finfo(dtype)
  return jax.lax.reduce_precision(x, kind.nexp, min(kind.nmant, 22))


def _normed(x, weight):
  """Computes x * weight / rms(x) over the last axis, in x's precision."""
  wide = x.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  normed = wide * jax.lax.rsqrt(mean_square + _EPSILON) * weight
  return _rounded(normed, x.dtype)


def init_projection(
  rng: Array, student_width: int, teacher_width: int, norm: bool
) -> types.PyTree:
  """Returns the initial parameters of one projection.

  The kernel is the identity if the widths are equal and otherwise normal with
  variance 1 / D_s, which keeps the mean square. Projections of several layers
  are stacked: use `jax.vmap` with a key for each.

  Args:
    rng: a random key.
    student_width: D_s.
    teacher_width: D_t.
    norm: whether the hidden state is normalized first.

  Returns:
    float32 {'projection': {'kernel': [D_s, D_t]}} and, with the norm,
    {'norm': {'scale': [D_s]}}, zeros.
  """
  if student_width == teacher_width:
    kernel = jnp.eye(student_width)
  else:
    init = jax.nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
    kernel = init(rng, (student_width, teacher_width), jnp.float32)
  params = {'projection': {'kernel': kernel}}
  if norm:
    params['norm'] = {'scale': jnp.zeros(student_width)}
  return params


def apply_projection(
  params: Mapping[str, Mapping[str, Array]],
  hidden: Array,
  dropout_rate: float,
  rng: Array | None,
) -> Array:
  """Applies the norm (weight 1 + scale, epsilon 1e-6), dropout and projection.

  Args:
    params: from init_projection; without 'norm' there is no norm.
    hidden: [..., D_s]; the product is computed in its data type.
    dropout_rate: fraction of entries that are set to 0, below 1; the rest are
      divided by 1 - dropout_rate.
    rng: a random key, or None for no dropout.

  Returns:
    float32 [..., D_t].
  """
  x = hidden
  if 'norm' in params:
    x = _normed(x, 1.0 + params['norm']['scale']).astype(hidden.dtype)
  if rng is not None:
    keep = 1.0 - dropout_rate
    kept = jax.random.bernoulli(rng, keep, x.shape)
    x = jnp.where(kept, x / keep, jnp.zeros_like(x))
  return jnp.einsum(
    '...d,de->...e',
    x,
    params['projection']['kernel'].astype(x.dtype),
    preferred_element_type=jnp.float32,
  )


def mse(mapped: Array, teacher: Array) -> Array:
  """Computes the mean squared difference from the teacher's normalized state.

  Gemma's hidden states have entries in the thousands, larger in later layers.
  Dividing by their root mean square (epsilon 1e-6) weights all layers equally.
  A state equal to the teacher's has loss 0 only after a projection with a norm.

  Args:
    mapped: [..., D_t], the student's state after apply_projection.
    teacher: [..., D_t], not differentiated.

  Returns:
    float32 [...].
  """
  target = _normed(jax.lax.stop_gradient(teacher), 1.0)
  difference = mapped.astype(jnp.float32) - target
  return jnp.mean(jnp.square(difference), axis=-1)


def _direction(x):
  """Returns x / ||x|| along the last axis, or 0, and whether it is defined.

  Dividing by the largest entry first keeps the squares within float32's range.
  """
  x = x.astype(jnp.float32)
  largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
  exists = jnp.any(x != 0, axis=-1, keepdims=True)  # True where x has NaN.
  # The direction does not depend on the scale, so this needs no derivative.
  x = x / jax.lax.stop_gradient(jnp.where(exists, largest, 1.0))
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  direction = x * jax.lax.rsqrt(jnp.where(exists, square, 1.0))
  return _rounded(direction, x.dtype), exists[..., 0]


def cosine(mapped: Array, teacher: Array) -> Array:
  """Computes 1 - cosine similarity; 1 without a gradient for a zero vector.

  It is computed as half the squared distance of the directions, which is equal
  but more precise for similar directions.

  Args:
    mapped: [..., D_t], the student's state after apply_projection.
    teacher: [..., D_t], not differentiated.

  Returns:
    float32 [...], from 0 to 2.
  """
  student_direction, student_exists = _direction(mapped)
  target, target_exists = _direction(jax.lax.stop_gradient(teacher))
  distance = jnp.sum(jnp.square(student_direction - target), axis=-1)
  return jnp.where(student_exists & target_exists, 0.5 * distance, 1.0)


KINDS = {'cosine': cosine, 'mse': mse}


def layers_loss(
  kind: str,
  params: types.PyTree,
  student_hidden: Array,
  teacher_hidden: Array,
  dropout_rate: float,
  rng: Array | None,
) -> Array:
  """Computes the mean loss over n layer pairs, one pair at a time.

  Args:
    kind: a name in KINDS.
    params: n projections from init_projection, stacked along a first axis.
    student_hidden: [n, B, L, D_s].
    teacher_hidden: [n, B, L, D_t], not differentiated.
    dropout_rate: see apply_projection.
    rng: a random key, or None for no dropout.

  Returns:
    float32 [B, L].
  """
  pairs = student_hidden.shape[0]

  # Only a pair's inputs, which exist anyway, are stored for the backward pass.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add(total, pair):
    projection, student, teacher, key = pair
    mapped = apply_projection(projection, student, dropout_rate, key)
    return total + KINDS[kind](mapped, teacher), None

  keys = None if rng is None else jax.random.split(rng, pairs)
  total, _ = jax.lax.scan(
    add,
    jnp.zeros(student_hidden.shape[1:3]),
    (params, student_hidden, teacher_hidden, keys),
  )
  return total / pairs
