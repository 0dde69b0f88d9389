"""Grouped-query attention that never holds scores [B, N, L, L] of long rows.

Queries and keys are cut into blocks, and of all pairs of blocks only those are
computed in which a query may see a key: about half of them in global layers,
two or three for each block of queries in local ones.
"""

import functools
import math

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from kd.core import types

Array = types.Array

# Rows up to this length are cut into slices of queries, which is fastest where
# memory is no question; longer ones into pairs of blocks. Both in positions.
_SHORT = 1024
_SLICES = 4
_SMALLEST_SLICE = 64
_BLOCK = 512
# Scores of hidden keys; and what no visible score falls below, so that a query
# which sees no key at all gives exp(_HIDDEN - _FLOOR) = 0 to each.
_HIDDEN = -1e30
_FLOOR = -1e20


@struct.dataclass
class Places:
  """Where tokens stand in their rows.

  Attributes:
    positions: int32 [B, L], ascending one by one within a segment.
    segment_ids: int32 [B, L]; attention stays within equal ids, 0 is padding.
  """

  positions: Array
  segment_ids: Array

  def part(self, start: int | Array, size: int) -> 'Places':
    """Places start..start + size - 1 of each row."""
    return jax.tree.map(lambda x: _part(x, start, size), self)


@struct.dataclass
class Sight:
  """Which keys of its own row a query sees: earlier ones, and itself.

  Attributes:
    places: of the row's tokens.
    window: how many keys at most, itself included; None for all.
  """

  places: Places
  window: int | None = struct.field(pytree_node=False)

  def reach(self, length: int) -> int:
    """How far back a query in a row of this length may look, in positions."""
    return length - 1 if self.window is None else min(self.window, length) - 1


def mask(queries: Places, keys: Places, window: int | None) -> Array:
  """Which keys a query sees: bool [B, L, M]."""
  distance = queries.positions[:, :, None] - keys.positions[:, None, :]
  ids = keys.segment_ids[:, None, :]
  seen = (queries.segment_ids[:, :, None] == ids) & (ids > 0) & (distance >= 0)
  return seen if window is None else seen & (distance < window)


def dense(
  query: Array, key: Array, value: Array, seen: Array, scale: float
) -> Array:
  """Attention with all scores at once.

  Args:
    query: [B, L, N, H].
    key: [B, M, G, H].
    value: [B, M, G, H].
    seen: bool [B, L, M], see mask.
    scale: scores are multiplied by it.

  Returns:
    [B, L, N, H].
  """
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    mask=seen[:, None],
    scale=scale,
    implementation='xla',
  )


def causal(
  query: Array, key: Array, value: Array, sight: Sight, scale: float
) -> Array:
  """Attention within rows, in the way that suits their length.

  Args:
    query: [B, L, N, H].
    key: [B, L, G, H].
    value: [B, L, G, H].
    sight: what queries see.
    scale: scores are multiplied by it.

  Returns:
    [B, L, N, H].
  """
  length = query.shape[1]
  if makes_scores_anew(length):
    return in_pairs(query, key, value, sight, scale, _BLOCK)
  return in_slices(query, key, value, sight, scale, _slice_size(length))


def makes_scores_anew(length: int) -> bool:
  """Whether gradients of `causal` compute the scores once more."""
  return length > _SHORT


def pairs_computed(length: int, window: int | None) -> int:
  """For how many query-key pairs of a row `causal` computes a score.

  Those that are hidden count too, where they share a block with others.
  """
  sight = Sight(None, window)
  if makes_scores_anew(length):
    padded = length + -length % _BLOCK
    return len(_pairs(sight, padded, _BLOCK)[0]) * _BLOCK**2
  slices = _slices(sight, length, _slice_size(length))
  return sum((stop - start) * (stop - first) for start, stop, first in slices)


def _slice_size(length):
  return max(_SMALLEST_SLICE, math.ceil(length / _SLICES))


def _slices(sight, length, size):
  """Where slices of queries start and stop, and the first key of each."""
  for start in range(0, length, size):
    yield start, min(start + size, length), max(0, start - sight.reach(length))


def in_slices(
  query: Array, key: Array, value: Array, sight: Sight, scale: float, size: int
) -> Array:
  """See causal: `size` queries at a time, each slice with the keys it needs.

  Gradients keep the slices' scores.
  """
  attended = []
  for start, stop, first in _slices(sight, query.shape[1], size):
    keys = slice(first, stop)
    seen = mask(
      sight.places.part(start, stop - start),
      sight.places.part(first, stop - first),
      sight.window,
    )
    attended.append(
      dense(query[:, start:stop], key[:, keys], value[:, keys], seen, scale)
    )
  return jnp.concatenate(attended, axis=1)


def in_pairs(
  query: Array, key: Array, value: Array, sight: Sight, scale: float, block: int
) -> Array:
  """See causal: a block of queries with a block of keys at a time.

  Softmax is accumulated over the blocks of keys (arXiv 1805.02867), and
  gradients make the scores anew (arXiv 2205.14135), both in float32. A query
  that sees no key gives 0.
  """
  length = query.shape[1]

  def padded(x):
    return jnp.pad(x, [(0, 0), (0, -length % block)] + [(0, 0)] * (x.ndim - 2))

  query, key, value, sight = jax.tree.map(padded, (query, key, value, sight))
  return _in_pairs(query, key, value, sight, scale, block)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _in_pairs(query, key, value, sight, scale, block):
  return _forward(query, key, value, sight, scale, block)[0]


def _pairs(sight, length, block):
  """Blocks of queries, of keys, and which pairs are their queries' first."""
  behind = -(-sight.reach(length) // block)
  found = [
    (i, j, j == max(0, i - behind))
    for i in range(length // block)
    for j in range(max(0, i - behind), i + 1)
  ]
  return tuple(np.array(x) for x in zip(*found, strict=True))


def _part(x, start, size):
  return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)


def _put(x, part, start):
  return jax.lax.dynamic_update_slice_in_dim(
    x, part.astype(x.dtype), start, axis=1
  )


def _dot(form, x, y):
  return jnp.einsum(form, x, y, preferred_element_type=jnp.float32)


def _to_rows(x, groups):
  """[B, b, N, ...] to [B, G, N / G * b, ...]: rows of one matrix a group."""
  x = x.reshape(*x.shape[:2], groups, -1, *x.shape[3:])
  x = jnp.moveaxis(x, 1, 3)
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _from_rows(x, block):
  """The inverse of _to_rows."""
  x = x.reshape(*x.shape[:2], -1, block, *x.shape[3:])
  x = jnp.moveaxis(x, 3, 1)
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _scores(query, key, sight, i, j, scale):
  """Scores of a block of queries and one of keys, as rows: [B, G, ., b]."""
  block = key.shape[1]
  seen = mask(
    sight.places.part(i * block, block),
    sight.places.part(j * block, block),
    sight.window,
  )
  scores = _dot('bgqh,bkgh->bgqk', query, key) * scale
  by_head = scores.reshape(*scores.shape[:2], -1, block, block)
  return jnp.where(seen[:, None, None], by_head, _HIDDEN).reshape(scores.shape)


def _forward(query, key, value, sight, scale, block):
  batch, length, heads, width = query.shape
  groups = key.shape[2]

  def step(carry, pair):
    out, normaliser, largest, total, summed = carry
    i, j, is_first = pair
    rows = _to_rows(_part(query, i * block, block), groups)
    scores = _scores(rows, _part(key, j * block, block), sight, i, j, scale)
    largest = jnp.where(is_first, _FLOOR, largest)
    new = jnp.maximum(largest, scores.max(-1))
    chance = jnp.exp(scores - new[..., None])
    kept = jnp.where(is_first, 0.0, jnp.exp(largest - new))
    total = total * kept + chance.sum(-1)
    summed = summed * kept[..., None] + _dot(
      'bgqk,bkgh->bgqh',
      chance.astype(value.dtype),
      _part(value, j * block, block),
    )
    # What stands here after the last block of keys is right.
    divisor = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
    attended = _from_rows(summed / divisor[..., None], block)
    out = _put(out, attended, i * block)
    logs = _from_rows(new + jnp.log(divisor), block)
    normaliser = _put(normaliser, logs, i * block)
    return (out, normaliser, new, total, summed), None

  of_rows = (batch, groups, block * heads // groups)
  start = (
    jnp.zeros_like(query),
    jnp.zeros((batch, length, heads), jnp.float32),
    jnp.zeros(of_rows, jnp.float32),
    jnp.zeros(of_rows, jnp.float32),
    jnp.zeros((*of_rows, width), jnp.float32),
  )
  pairs = _pairs(sight, length, block)
  (out, normaliser, *_), _ = jax.lax.scan(step, start, pairs)
  return out, (query, key, value, sight, out, normaliser)


def _backward(scale, block, residuals, gradient):
  query, key, value, sight, out, normaliser = residuals
  batch, _, heads, width = query.shape
  groups, dtype = key.shape[2], query.dtype
  # [B, L, N]: what softmax's gradient subtracts in each row.
  mean = jnp.sum(
    out.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1
  )

  def step(carry, pair):
    d_query, d_key, d_value, summed = carry
    i, j, is_first = pair
    rows = lambda x: _to_rows(_part(x, i * block, block), groups)
    columns = lambda x: _part(x, j * block, block)
    q, k, g = rows(query), columns(key), rows(gradient)
    scores = _scores(q, k, sight, i, j, scale)
    chance = jnp.exp(scores - rows(normaliser)[..., None])
    d_chance = _dot('bgqh,bkgh->bgqk', g, columns(value))
    d_scores = chance * (d_chance - rows(mean)[..., None]) * scale
    chance, d_scores = chance.astype(dtype), d_scores.astype(dtype)
    summed = jnp.where(is_first, 0.0, summed)
    summed += _dot('bgqk,bkgh->bgqh', d_scores, k)
    d_query = _put(d_query, _from_rows(summed, block), i * block)
    more = _dot('bgqk,bgqh->bkgh', d_scores, q)
    d_key = _put(d_key, columns(d_key) + more, j * block)
    more = _dot('bgqk,bgqh->bkgh', chance, g)
    d_value = _put(d_value, columns(d_value) + more, j * block)
    return (d_query, d_key, d_value, summed), None

  start = (
    jnp.zeros_like(query),
    jnp.zeros(key.shape, jnp.float32),
    jnp.zeros(value.shape, jnp.float32),
    jnp.zeros((batch, groups, block * heads // groups, width), jnp.float32),
  )
  pairs = _pairs(sight, query.shape[1], block)
  (d_query, d_key, d_value, _), _ = jax.lax.scan(step, start, pairs)
  return d_query, d_key.astype(key.dtype), d_value.astype(value.dtype), None


_in_pairs.defvjp(_forward, _backward)
