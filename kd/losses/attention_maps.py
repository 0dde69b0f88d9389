"""Attention maps and relations against the teacher's, in blocks of queries.

Maps of a whole row are [B, N, L, L] and do not fit. They exist for a block of
queries at a time, in the forward pass and again in the backward pass, which
makes them anew from queries and keys.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd.core import errors
from kd.core import types
from kd.losses import divergences

Array = types.Array

HEADS = ('each', 'mean')

_KL = divergences.forward_kl().integrand

# A logit that no softmax sees, finite so that differences of two are, too.
_UNSEEN = -1e30


class Heads(NamedTuple):
  """One model's queries and keys, as they enter its attention's product.

  Attributes:
    query: [B, L, N, H].
    key: [B, L, G, H], N being a multiple of G; head n reads key n // (N / G).
    scale: what the products are multiplied by to give logits.
  """

  query: Array
  key: Array
  scale: float


class _Keys(NamedTuple):
  """What a block of queries reads, each [B, K, ...]."""

  student: Array
  teacher: Array
  positions: Array
  segment_ids: Array


def check_heads(
  heads: str, student_heads: int, teacher_heads: int, path: str
) -> None:
  """Refuses head counts that map_loss cannot compare.

  Args:
    heads: see map_loss.
    student_heads: N of the student.
    teacher_heads: N of the teacher.
    path: the config path of `heads`.

  Raises:
    ConfigError: `heads` is unknown, or 'each' with unequal counts.
  """
  if heads not in HEADS:
    raise errors.unknown(path, 'way to compare heads', heads, HEADS)
  if heads == 'each' and student_heads != teacher_heads:
    raise errors.ConfigError(
      path,
      f"'each' needs equal counts, found {student_heads} query heads in the "
      f'student and {teacher_heads} in the teacher',
      legal="'mean', or relations",
    )


def check_relation_heads(
  relation_heads: int, student_width: int, teacher_width: int, path: str
) -> None:
  """Refuses a number of relation heads that does not divide both widths.

  Args:
    relation_heads: R.
    student_width: heads x H of what the student relates: N H for queries, G H
      for keys and values.
    teacher_width: the teacher's.
    path: the config path of `relation_heads`.

  Raises:
    ConfigError: R is not a divisor of both.
  """
  divisible = math.gcd(student_width, teacher_width)
  whole = isinstance(relation_heads, int) and relation_heads > 0
  if not whole or divisible % relation_heads:
    raise errors.ConfigError(
      path,
      f'found {relation_heads!r}, which does not divide the widths '
      f'{student_width} of the student and {teacher_width} of the teacher',
      legal=f'a divisor of {divisible}',
    )


def _visible(positions, segment_ids, keys, window):
  """Which keys a query sees in both models, bool [B, 1, C, K]."""
  distance = positions[:, :, None] - keys.positions[:, None, :]
  # Padding sees padding: zeros in both models, whose maps are thus the same.
  visible = segment_ids[:, :, None] == keys.segment_ids[:, None, :]
  visible &= distance >= 0
  if window is not None:
    visible &= distance < window
  return visible[:, None]


# The gradients of the next two are written out, so that nothing but results is
# kept. By default the compiler keeps what was summed, for the student alone,
# sums the teacher's in another order, and equal logits have a gradient.
@jax.custom_vjp
def _log_softmax(logits):
  """Log-probabilities [..., K]."""
  return jax.nn.log_softmax(logits)


def _log_softmax_forward(logits):
  log_map = _log_softmax(logits)
  return log_map, log_map


def _log_softmax_backward(log_map, cotangent):
  total = jnp.sum(cotangent, axis=-1, keepdims=True)
  return (cotangent - jnp.exp(log_map) * total,)


_log_softmax.defvjp(_log_softmax_forward, _log_softmax_backward)


@jax.custom_vjp
def _log_sum(log_maps):
  """Log of the sum of maps [B, N, C, K] over heads: [B, 1, C, K]."""
  return jax.nn.logsumexp(log_maps, axis=1, keepdims=True)


def _log_sum_forward(log_maps):
  log_sum = _log_sum(log_maps)
  return log_sum, (log_maps, log_sum)


def _log_sum_backward(kept, cotangent):
  log_maps, log_sum = kept
  return (cotangent * jnp.exp(log_maps - log_sum),)


_log_sum.defvjp(_log_sum_forward, _log_sum_backward)


def _log_maps(query, key, scale, visible):
  """Log attention of [B, C, N, H] to [B, K, G, H]: float32 [B, N, C, K]."""
  b, c, n, h = query.shape
  logits = jnp.einsum(
    'bcgmh,bkgh->bgmck',
    query.reshape(b, c, key.shape[2], -1, h),
    key.astype(query.dtype),
    preferred_element_type=jnp.float32,
  )
  logits = logits.reshape(b, n, c, -1) * scale
  return _log_softmax(jnp.where(visible, logits, _UNSEEN))


def _pad(x, before, after):
  """Zeros before and after the positions of x [B, L, ...]."""
  return jnp.pad(x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2))


def _map_blocks(
  function: Callable[..., Array],
  queries: types.PyTree,
  keys: types.PyTree,
  block: int,
  window: int | None,
) -> Array:
  """Applies a function to each block of queries and the keys it may see.

  Args:
    function: of (queries [B, C, ...], keys [B, K, ...]), returns [B, C]. A
      block's intermediate values are made anew for the backward pass.
    queries: a tree of [B, L, ...].
    keys: a tree of [B, L, ...]; zeros stand for keys outside the row.
    block: C.
    window: keys further back than this are not handed over; None for all.

  Returns:
    [B, L].
  """
  batch, length = jax.tree.leaves(queries)[0].shape[:2]
  block = min(block, length)
  count = -(-length // block)
  after = count * block - length
  local = window is not None and window + block <= length
  before = window - 1 if local else 0
  span = before + block if local else count * block
  keys = jax.tree.map(lambda x: _pad(x, before, after), keys)

  def split(x):
    x = _pad(x, 0, after)
    return jnp.moveaxis(x.reshape(batch, count, block, *x.shape[2:]), 1, 0)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def one(inputs):
    start, block_queries = inputs
    take = lambda x: jax.lax.dynamic_slice_in_dim(x, start, span, axis=1)
    return function(block_queries, jax.tree.map(take, keys))

  starts = jnp.arange(count) * (block if local else 0)
  out = jax.lax.map(one, (starts, jax.tree.map(split, queries)))
  return jnp.moveaxis(out, 0, 1).reshape(batch, -1)[:, :length]


def map_loss(
  student: Heads,
  teacher: Heads,
  positions: Array,
  segment_ids: Array,
  *,
  window: int | None,
  temperature: Array | float,
  heads: str,
  block: int,
) -> Array:
  """T^2 KL(teacher's row of attention || student's), mean over heads.

  Rows are softmaxes at temperature T over the keys that both models see: those
  of the same segment, not later, and nearer than `window`. Rows are packed as
  in types.Batch: a segment's tokens stand side by side, in order.

  Args:
    student: [B, L, N_s, H_s] and keys.
    teacher: [B, L, N_t, H_t] and keys, not differentiated.
    positions: int32 [B, L], from 0 in each segment.
    segment_ids: int32 [B, L], 0 on padding, where nothing is read.
    window: the smaller of the two layers' windows in tokens, the query itself
      included; None if both are global.
    temperature: T > 0.
    heads: 'each' compares head n with head n (N_s = N_t), 'mean' the mean of
      the student's maps with the mean of the teacher's.
    block: queries whose maps exist at one time.

  Returns:
    float32 [B, L] in nats; 0 on padding.
  """
  known = (segment_ids > 0)[..., None, None]
  clean = lambda x: jnp.where(known, x, jnp.zeros_like(x))
  teacher = jax.lax.stop_gradient(teacher)
  keys = _Keys(
    # Blocks add to the gradient of the keys: in float32, whatever their type.
    student=clean(student.key).astype(jnp.float32),
    teacher=clean(teacher.key),
    positions=positions,
    segment_ids=segment_ids,
  )

  def block_loss(queries, keys):
    student_query, teacher_query, *where = queries
    visible = _visible(*where, keys, window)
    log_q = _log_maps(
      student_query, keys.student, student.scale / temperature, visible
    )
    log_p = _log_maps(
      teacher_query, keys.teacher, teacher.scale / temperature, visible
    )
    if heads == 'mean':
      # Normalising divides by N, to exactly 1 where there is one key.
      log_q, log_p = (_log_softmax(_log_sum(x)) for x in (log_q, log_p))
    return jnp.mean(jnp.sum(_KL(log_p, log_q), axis=-1), axis=1)

  queries = (
    clean(student.query),
    clean(teacher.query),
    positions,
    segment_ids,
  )
  return temperature**2 * _map_blocks(block_loss, queries, keys, block, window)


def relation_loss(
  student: Array,
  teacher: Array,
  positions: Array,
  segment_ids: Array,
  *,
  relation_heads: int,
  window: int | None,
  temperature: Array | float,
  block: int,
) -> Array:
  """MiniLMv2's relations of queries, keys or values (arXiv 2012.15828).

  Heads are put side by side and split into R of width W; the map of relation
  head r is softmax(x_r x_r^T / sqrt(W)), so that head counts and widths may
  differ. The rest is as in map_loss.

  Args:
    student: [B, L, N_s, H_s] (or G_s heads), all three of the same kind.
    teacher: [B, L, N_t, H_t], not differentiated.
    positions: int32 [B, L].
    segment_ids: int32 [B, L].
    relation_heads: R, which check_relation_heads has accepted.
    window: see map_loss.
    temperature: T > 0.
    block: queries whose maps exist at one time.

  Returns:
    float32 [B, L] in nats; 0 on padding.
  """

  def relate(x):
    x = x.reshape(*x.shape[:2], relation_heads, -1)
    return Heads(x, x, x.shape[-1] ** -0.5)

  return map_loss(
    relate(student),
    relate(teacher),
    positions,
    segment_ids,
    window=window,
    temperature=temperature,
    heads='each',
    block=block,
  )
