"""Attention over pairs of blocks: one of queries and one of keys at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kd.core import types
from kd.models import visibility

Array = types.Array

# Scores of hidden keys; and what no visible score falls below, so that a query
# which sees no key at all gives exp(_HIDDEN - _FLOOR) = 0 to each.
_HIDDEN = -1e30
_FLOOR = -1e20


def attend(
  query: Array,
  key: Array,
  value: Array,
  sight: visibility.Sight,
  scale: float,
  block: int,
) -> Array:
  """Attention within rows; see attention.causal.

  Softmax is accumulated over the blocks of keys (arXiv 1805.02867), and
  gradients make the scores anew (arXiv 2205.14135), both in float32. A query
  that sees no key gives 0.
  """
  length = query.shape[1]

  def padded(x):
    return jnp.pad(x, [(0, 0), (0, -length % block)] + [(0, 0)] * (x.ndim - 2))

  query, key, value, sight = jax.tree.map(padded, (query, key, value, sight))
  return _attend(query, key, value, sight, scale, block)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(query, key, value, sight, scale, block):
  return _forward(query, key, value, sight, scale, block)[0]


def pairs(
  sight: visibility.Sight, length: int, block: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The pairs in which a query may see a key, by blocks of queries in order.

  Args:
    sight: what queries see.
    length: of rows, a multiple of `block`.
    block: positions in a block.

  Returns:
    For each pair the number of its block of queries, that of its block of keys,
    and whether it is the first with these queries.
  """
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
  seen = visibility.mask(
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
  found = pairs(sight, length, block)
  (out, normaliser, *_), _ = jax.lax.scan(step, start, found)
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
  found = pairs(sight, query.shape[1], block)
  (d_query, d_key, d_value, _), _ = jax.lax.scan(step, start, found)
  return d_query, d_key.astype(key.dtype), d_value.astype(value.dtype), None


_attend.defvjp(_forward, _backward)
