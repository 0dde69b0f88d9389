"""Compares attention maps and relations with the teacher's.

The maps of whole rows, [B, N, L, L], do not fit in memory. They are computed
from queries and keys for one block of queries at a time, in the forward pass
and again in the backward pass.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd.core import attention_mask
from kd.core import errors
from kd.core import types
from kd.losses import divergences

Array = types.Array

HEADS = ('each', 'mean')
DISTANCES = ('kl', 'cosine')

_KL = divergences.forward_kl().integrand

# The logit of a masked key. Its softmax is 0, and it is finite so that
# differences of two such logits are finite.
_MASKED = -1e30


class Heads(NamedTuple):
  """The queries and keys of one model's attention.

  Attributes:
    query: [B, L, N, H].
    key: [B, L, G, H]; G divides N, and query head n uses key head n // (N / G).
    scale: factor from products to logits.
  """

  query: Array
  key: Array
  scale: float


class _Keys(NamedTuple):
  """The keys for a block of queries, each [B, K, ...]."""

  student: Array
  teacher: Array
  positions: attention_mask.Positions


def check_heads(
  heads: str, student_heads: int, teacher_heads: int, path: str
) -> None:
  """Checks that map_loss can compare the models' heads.

  Args:
    heads: see map_loss.
    student_heads: N of the student.
    teacher_heads: N of the teacher.
    path: the config field of `heads`.

  Raises:
    ConfigError: `heads` is unknown, or is 'each' and the counts differ.
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
  """Checks that the number of relation heads divides both widths.

  Args:
    relation_heads: R.
    student_width: width of all heads of the student: N H for queries, G H for
      keys and values.
    teacher_width: the same for the teacher.
    path: the config field of `relation_heads`.

  Raises:
    ConfigError: R does not divide both.
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


# The gradients of the next two functions are explicit so that only results are
# stored. Otherwise the compiler stores only the student's summands and sums the
# teacher's in another order, and equal logits get a nonzero gradient.
@jax.custom_vjp
def _log_softmax(logits):
  """Computes log-probabilities [..., K]."""
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
  """Computes the log of maps [B, N, C, K] summed over heads: [B, 1, C, K]."""
  return jax.nn.logsumexp(log_maps, axis=1, keepdims=True)


def _log_sum_forward(log_maps):
  log_sum = _log_sum(log_maps)
  return log_sum, (log_maps, log_sum)


def _log_sum_backward(kept, cotangent):
  log_maps, log_sum = kept
  return (cotangent * jnp.exp(log_maps - log_sum),)


_log_sum.defvjp(_log_sum_forward, _log_sum_backward)


def _log_maps(query, key, scale, visible):
  """Computes log attention maps, float32 [B, N, C, K].

  Args:
    query: [B, C, N, H].
    key: [B, K, G, H].
    scale: factor of the products.
    visible: bool [B, 1, C, K].
  """
  b, c, n, h = query.shape
  logits = jnp.einsum(
    'bcgmh,bkgh->bgmck',
    query.reshape(b, c, key.shape[2], -1, h),
    key.astype(query.dtype),
    preferred_element_type=jnp.float32,
  )
  logits = logits.reshape(b, n, c, -1) * scale
  return _log_softmax(jnp.where(visible, logits, _MASKED))


def _pad(x, before, after):
  """Adds zeros before and after the positions of x [B, L, ...]."""
  return jnp.pad(x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2))


def _map_blocks(
  function: Callable[..., Array],
  queries: types.PyTree,
  keys: types.PyTree,
  block: int,
  window: int | None,
  image_tokens: int,
) -> Array:
  """Applies a function to each block of queries and the keys it may attend to.

  Args:
    function: maps (queries [B, C, ...], keys [B, K, ...]) to [B, C]. The
      backward pass recomputes a block's intermediate values.
    queries: a tree of [B, L, ...].
    keys: a tree of [B, L, ...]; keys outside the row are zeros.
    block: C.
    window: attention window, beyond which keys are left out; None for all keys.
    image_tokens: number of positions of an image, which attend to each other; 0
      without images.

  Returns:
    [B, L].
  """
  batch, length = jax.tree.leaves(queries)[0].shape[:2]
  block = min(block, length)
  count = -(-length // block)
  after = count * block - length
  ahead = max(image_tokens - 1, 0)
  local = window is not None and window - 1 + block + ahead < length
  before = window - 1 if local else 0
  span = before + block + ahead if local else count * block
  keys = jax.tree.map(
    lambda x: _pad(x, before, after + ahead if local else after), keys
  )

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


def _distance(distance, log_p, log_q):
  """Returns the distance of maps [..., K] from the teacher's maps log_p."""
  if distance == 'kl':
    return jnp.sum(_KL(log_p, log_q), axis=-1)
  p, q = (
    x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True))
    for x in (jnp.exp(log_p), jnp.exp(log_q))
  )
  # Equal to 1 minus their product, but never negative.
  return jnp.sum(jnp.square(p - q), axis=-1) / 2


def map_loss(
  student: Heads,
  teacher: Heads,
  positions: attention_mask.Positions,
  *,
  window: int | None,
  temperature: Array | float,
  heads: str,
  block: int,
  image_tokens: int = 0,
  distance: str = 'kl',
) -> Array:
  """Computes the distance of the student's attention from the teacher's.

  The distance is the mean over heads of T^2 KL(teacher || student), or of 1
  minus the cosine of the angle between both.

  Attention is a softmax at temperature T over the keys that both models attend
  to: keys of the same segment that are not later and are within `window`, and
  keys of the same image. Rows are packed as in types.Batch: a segment's tokens
  are contiguous and in order.

  Args:
    student: queries [B, L, N_s, H_s] and keys.
    teacher: queries [B, L, N_t, H_t] and keys, not differentiated.
    positions: positions of the rows' tokens.
    window: the smaller attention window of the two layers in tokens, including
      the query; None if both are global.
    temperature: T > 0.
    heads: 'each' compares head n with head n (N_s = N_t), 'mean' compares the
      means over heads.
    block: number of queries whose maps are computed at a time.
    image_tokens: number of consecutive positions of an image; 0 without images.
    distance: a name in DISTANCES.

  Returns:
    float32 [B, L], for 'kl' in nats; 0 on padding.
  """
  known = (positions.segment_ids > 0)[..., None, None]
  clean = lambda x: jnp.where(known, x, jnp.zeros_like(x))
  teacher = jax.lax.stop_gradient(teacher)
  keys = _Keys(
    # Gradients of keys are summed over blocks, in float32 for any data type.
    student=clean(student.key).astype(jnp.float32),
    teacher=clean(teacher.key),
    positions=positions,
  )

  def block_loss(queries, keys):
    student_query, teacher_query, own = queries
    # Visible in both models, [B, 1, C, K].
    visible = attention_mask.attends(own, keys.positions, window)[:, None]
    log_q = _log_maps(
      student_query, keys.student, student.scale / temperature, visible
    )
    log_p = _log_maps(
      teacher_query, keys.teacher, teacher.scale / temperature, visible
    )
    if heads == 'mean':
      # Normalizing divides by N; with a single key the result is exactly 1.
      log_q, log_p = (_log_softmax(_log_sum(x)) for x in (log_q, log_p))
    return jnp.mean(_distance(distance, log_p, log_q), axis=1)

  queries = clean(student.query), clean(teacher.query), positions
  losses = _map_blocks(block_loss, queries, keys, block, window, image_tokens)
  return temperature**2 * losses if distance == 'kl' else losses


def relation_loss(
  student: Array,
  teacher: Array,
  positions: attention_mask.Positions,
  *,
  relation_heads: int,
  window: int | None,
  temperature: Array | float,
  block: int,
  image_tokens: int = 0,
) -> Array:
  """Compares relations of queries, keys or values (MiniLMv2, arXiv 2012.15828).

  Heads are concatenated and split into R relation heads of width W. The map of
  relation head r is softmax(x_r x_r^T / sqrt(W)), so that head counts and
  widths may differ. Everything else is as in map_loss.

  Args:
    student: queries [B, L, N_s, H_s], or keys or values with G_s heads.
    teacher: [B, L, N_t, H_t], the same kind of vectors, not differentiated.
    positions: positions of the rows' tokens.
    relation_heads: R, which check_relation_heads has accepted.
    window: see map_loss.
    temperature: T > 0.
    block: number of queries whose maps are computed at a time.
    image_tokens: see map_loss.

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
    window=window,
    temperature=temperature,
    heads='each',
    block=block,
    image_tokens=image_tokens,
  )
