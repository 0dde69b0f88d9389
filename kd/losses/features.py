"""Hidden states against hidden states, through a linear path.

The student's state goes through a norm (if wanted), dropout and a projection to
the teacher's width. The path is trained with the student and is no part of it.
"""

from collections.abc import Mapping
import functools

import jax
import jax.numpy as jnp

from kd.core import types

Array = types.Array

# As in Gemma's own norms.
_EPSILON = 1e-6


def _rounded(x, dtype):
  """Rounds x to the digits of dtype, or to one less than float32 has.

  Both sides of a loss are rounded so, and equal states stay equal bits. A cast
  would not do: the compiler leaves out a cast and its inverse, and one side's
  last product may be merged with the subtraction, unrounded.
  """
  kind = jnp.finfo(dtype)
  return jax.lax.reduce_precision(x, kind.nexp, min(kind.nmant, 22))


def _normed(x, weight):
  """Gives x weight / rms(x), last axis, in float32 of the digits of x."""
  wide = x.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  normed = wide * jax.lax.rsqrt(mean_square + _EPSILON) * weight
  return _rounded(normed, x.dtype)


def init_path(
  rng: Array, student_width: int, teacher_width: int, norm: bool
) -> types.PyTree:
  """Parameters of one path.

  The projection starts as the identity where the widths agree, and otherwise
  as a normal of variance 1 / D_s, which keeps the mean square. Paths of several
  layers are stacked: `jax.vmap` over a key each.

  Args:
    rng: a key.
    student_width: D_s.
    teacher_width: D_t.
    norm: whether the state is normed first.

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


def apply_path(
  params: Mapping[str, Mapping[str, Array]],
  hidden: Array,
  dropout_rate: float,
  rng: Array | None,
) -> Array:
  """Norm (weight 1 + scale, epsilon 1e-6), dropout, projection.

  Args:
    params: from init_path; without 'norm' there is no norm.
    hidden: [..., D_s]; the projection is multiplied in its dtype.
    dropout_rate: the share of entries set to 0, below 1; the others are divided
      by what it leaves.
    rng: a key, or None for no dropout.

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
  """Mean squared difference from the teacher's state over its RMS.

  Gemma's residual stream has entries in the thousands, more in later layers:
  over its root mean square (epsilon 1e-6) every layer counts alike. A state
  equal to the teacher's has loss 0 after a path with norm, not without.

  Args:
    mapped: [..., D_t], what apply_path made of the student's state.
    teacher: [..., D_t], not differentiated.

  Returns:
    float32 [...].
  """
  target = _normed(jax.lax.stop_gradient(teacher), 1.0)
  difference = mapped.astype(jnp.float32) - target
  return jnp.mean(jnp.square(difference), axis=-1)


def _direction(x):
  """Gives x / ||x|| along the last axis, or 0, and whether it exists.

  Dividing by the largest entry first keeps the squares within float32.
  """
  x = x.astype(jnp.float32)
  largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
  exists = jnp.any(x != 0, axis=-1, keepdims=True)  # True where x has NaN.
  # A direction does not change with scale, so neither does its derivative.
  x = x / jax.lax.stop_gradient(jnp.where(exists, largest, 1.0))
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  direction = x * jax.lax.rsqrt(jnp.where(exists, square, 1.0))
  return _rounded(direction, x.dtype), exists[..., 0]


def cosine(mapped: Array, teacher: Array) -> Array:
  """1 - cosine similarity; 1, without a gradient, where a vector is 0.

  Made as half the squared distance of the directions, which is the same and
  loses no digits where they agree.

  Args:
    mapped: [..., D_t], what apply_path made of the student's state.
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
  """The mean over n layer pairs, one pair at a time, forward and backward.

  Args:
    kind: a name of KINDS.
    params: n paths from init_path, stacked along a first axis.
    student_hidden: [n, B, L, D_s].
    teacher_hidden: [n, B, L, D_t], not differentiated.
    dropout_rate: see apply_path.
    rng: a key, or None for no dropout.

  Returns:
    float32 [B, L].
  """
  pairs = student_hidden.shape[0]

  # What a pair's loss is made from is at hand; it alone is kept for backward.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add(total, pair):
    path, student, teacher, key = pair
    mapped = apply_path(path, student, dropout_rate, key)
    return total + KINDS[kind](mapped, teacher), None

  keys = None if rng is None else jax.random.split(rng, pairs)
  total, _ = jax.lax.scan(
    add,
    jnp.zeros(student_hidden.shape[1:3]),
    (params, student_hidden, teacher_hidden, keys),
  )
  return total / pairs
