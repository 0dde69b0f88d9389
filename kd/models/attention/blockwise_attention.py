"""Computes attention for one block of queries and one of keys at a time."""

import functools

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from kd.core import attention_mask
from kd.core import bounds
from kd.core import types
from kd.models.attention import repeat_kv
from kd.partitioning import rules

Array = types.Array
_Names = jax.sharding.PartitionSpec

# The score of masked keys, and a lower bound of visible scores. A query that
# sees no key gives each key the weight exp(_HIDDEN - _FLOOR) = 0.
_HIDDEN = -1e30
_FLOOR = -1e20


def attend(
  query: Array,
  key: Array,
  value: Array,
  mask: attention_mask.AttentionMask,
  scale: float,
  block: int,
) -> Array:
  """Computes attention within rows; see attention.causal.

  Softmax is accumulated over the blocks of keys (arXiv 1805.02867), and
  gradients recompute the scores (arXiv 2205.14135), both in float32. The result
  is 0 for a query that sees no key.
  """
  length = query.shape[1]
  shards = rules.shards('length', length)
  plan = pairs(mask, length, block, shards)
  ids = mask.row
  if shards == 1:
    # The compiler may shard heads in any way.
    return _own(query, key, value, ids, ids, plan, mask.window, scale, block)
  key, value = repeat_kv.for_each_part(key, value, query.shape[2])

  def each(*arrays):
    return _own(*arrays, mask.window, scale, block)

  of_queries = _Names('batch', 'length', 'heads')
  of_keys = _Names('batch', None, 'heads')
  ins = (
    of_queries,
    of_keys,
    of_keys,
    _Names('batch', 'length'),
    _Names('batch'),
    _Names('length'),
  )
  return rules.map_shards(each, ins, of_queries)(
    query, key, value, ids, ids, plan
  )


@struct.dataclass
class BlockPlan:
  """Pairs of blocks in the order of their computation, [shards, P].

  Attributes:
    query: index of a block of queries, within a shard of the row.
    key: index of a block of keys, in the whole row.
    is_first: whether it is the first pair with these queries.
    is_real: False for pairs that pad shards with fewer pairs.
  """

  query: Array
  key: Array
  is_first: Array
  is_real: Array


def pairs(
  mask: attention_mask.AttentionMask, length: int, block: int, shards: int
) -> BlockPlan:
  """Returns the pairs in which a query may see a key.

  Args:
    mask: the keys that queries see.
    length: length of rows, a multiple of `shards`.
    block: number of positions in a block.
    shards: number of shards that queries are split into.

  Returns:
    The pairs of each shard as numpy arrays, ordered by block of queries.
  """
  own, reach = length // shards, mask.reach(length)
  plans = []
  for start in range(0, length, own):
    found = []
    for i in range(-(-own // block)):
      first = start + i * block
      last = min(first + block, start + own) - 1
      nearest = max(0, first - reach) // block
      farthest = min(last + mask.lookahead, length - 1) // block
      found += [
        (i, j, j == nearest, True) for j in range(nearest, farthest + 1)
      ]
    plans.append(found)
  most = max(map(len, plans))
  for found in plans:
    # Padding follows the last block of queries, and does not change its sums.
    found += [(found[-1][0], 0, False, False)] * (most - len(found))
  # [shards, P] of each field, from (shards, P, fields).
  fields = np.moveaxis(np.array(plans), -1, 0)
  return BlockPlan(*fields[:2], *fields[2:].astype(bool))


def _own(query, key, value, queries, keys, plan, window, scale, block):
  """Computes attention of a part of each row, [B, l, N, H], to all of it."""
  length = query.shape[1]

  def padded(x):
    return jnp.pad(
      x, [(0, 0), (0, -x.shape[1] % block)] + [(0, 0)] * (x.ndim - 2)
    )

  arrays = jax.tree.map(padded, (query, key, value, queries, keys))
  plan = jax.tree.map(lambda x: x[0], plan)
  return _attend(*arrays, plan, window, scale, block)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _attend(query, key, value, queries, keys, plan, window, scale, block):
  arrays = query, key, value, queries, keys, plan
  out, _ = _forward(*arrays, window, scale, block)
  return out


def _part(x, start, size):
  return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)


def _put(x, part, start):
  return jax.lax.dynamic_update_slice_in_dim(
    x, part.astype(x.dtype), start, axis=1
  )


def _dot(form, x, y):
  return jnp.einsum(form, x, y, preferred_element_type=jnp.float32)


def _to_rows(x, groups):
  """Reshapes [B, b, N, ...] to [B, G, N / G * b, ...], a matrix per group."""
  x = x.reshape(*x.shape[:2], groups, -1, *x.shape[3:])
  x = jnp.moveaxis(x, 1, 3)
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _from_rows(x, block):
  """Inverts _to_rows."""
  x = x.reshape(*x.shape[:2], -1, block, *x.shape[3:])
  x = jnp.moveaxis(x, 3, 1)
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _scores(query, key, queries, keys, pair, window, scale):
  """Returns scores of a block of queries and one of keys: [B, G, ., b]."""
  block = key.shape[1]
  seen = attention_mask.visible(
    queries.part(pair.query * block, block),
    keys.part(pair.key * block, block),
    window,
  )
  seen &= pair.is_real
  scores = _dot('bgqh,bkgh->bgqk', query, key) * scale
  by_head = scores.reshape(*scores.shape[:2], -1, block, block)
  return jnp.where(seen[:, None, None], by_head, _HIDDEN).reshape(scores.shape)


def _forward(query, key, value, queries, keys, plan, window, scale, block):
  batch, length, heads, width = query.shape
  groups = key.shape[2]

  def step(carry, pair):
    out, log_normalizer, largest, total, summed = carry
    i, j, is_first = pair.query, pair.key, pair.is_first
    rows = _to_rows(_part(query, i * block, block), groups)
    columns = _part(key, j * block, block)
    scores = _scores(rows, columns, queries, keys, pair, window, scale)
    largest = jnp.where(is_first, _FLOOR, largest)
    new = jnp.maximum(largest, scores.max(-1))
    probs = jnp.exp(scores - new[..., None])
    kept = jnp.where(is_first, 0.0, jnp.exp(largest - new))
    total = total * kept + probs.sum(-1)
    summed = summed * kept[..., None] + _dot(
      'bgqk,bkgh->bgqh',
      probs.astype(value.dtype),
      _part(value, j * block, block),
    )
    # Each block of keys writes here; the last one writes the whole sum.
    divisor = bounds.at_least(total, jnp.finfo(jnp.float32).tiny)
    attended = _from_rows(summed / divisor[..., None], block)
    out = _put(out, attended, i * block)
    logs = _from_rows(new + jnp.log(divisor), block)
    log_normalizer = _put(log_normalizer, logs, i * block)
    return (out, log_normalizer, new, total, summed), None

  of_rows = (batch, groups, block * heads // groups)
  start = (
    jnp.zeros_like(query),
    jnp.zeros((batch, length, heads), jnp.float32),
    jnp.zeros(of_rows, jnp.float32),
    jnp.zeros(of_rows, jnp.float32),
    jnp.zeros((*of_rows, width), jnp.float32),
  )
  (out, log_normalizer, *_), _ = jax.lax.scan(step, start, plan)
  return out, (query, key, value, queries, keys, plan, out, log_normalizer)


def _backward(window, scale, block, residuals, gradient):
  query, key, value, queries, keys, plan, out, log_normalizer = residuals
  batch, _, heads, width = query.shape
  groups, dtype = key.shape[2], query.dtype
  # [B, L, N]: softmax's gradient subtracts it in each row.
  mean = jnp.sum(
    out.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1
  )

  def step(carry, pair):
    d_query, d_key, d_value, summed = carry
    i, j, is_first = pair.query, pair.key, pair.is_first
    rows = lambda x: _to_rows(_part(x, i * block, block), groups)
    columns = lambda x: _part(x, j * block, block)
    q, k, g = rows(query), columns(key), rows(gradient)
    scores = _scores(q, k, queries, keys, pair, window, scale)
    probs = jnp.exp(scores - rows(log_normalizer)[..., None])
    d_probs = _dot('bgqh,bkgh->bgqk', g, columns(value))
    d_scores = probs * (d_probs - rows(mean)[..., None]) * scale
    probs, d_scores = probs.astype(dtype), d_scores.astype(dtype)
    summed = jnp.where(is_first, 0.0, summed)
    summed += _dot('bgqk,bkgh->bgqh', d_scores, k)
    d_query = _put(d_query, _from_rows(summed, block), i * block)
    more = _dot('bgqk,bgqh->bkgh', d_scores, q)
    d_key = _put(d_key, columns(d_key) + more, j * block)
    more = _dot('bgqk,bgqh->bkgh', probs, g)
    d_value = _put(d_value, columns(d_value) + more, j * block)
    return (d_query, d_key, d_value, summed), None

  start = (
    jnp.zeros_like(query),
    jnp.zeros(key.shape, jnp.float32),
    jnp.zeros(value.shape, jnp.float32),
    jnp.zeros((batch, groups, block * heads // groups, width), jnp.float32),
  )
  (d_query, d_key, d_value, _), _ = jax.lax.scan(step, start, plan)
  d_key, d_value = d_key.astype(key.dtype), d_value.astype(value.dtype)
  return d_query, d_key, d_value, None, None, None


_attend.defvjp(_forward, _backward)
