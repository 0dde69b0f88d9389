"""Logits chunk by chunk: a whole batch's do not fit in memory.

Each chunk takes the next positions that count of every row, so that prompts and
padding are never computed. Its tokens lie in one axis T: products over two axes
are far slower on a CPU. Within a chunk the few hidden states are gathered and
the vocabulary stays where it lies, split over devices: what moves is small.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from kd.core import types
from kd.partitioning import rules

Array = types.Array

_SLICE = 8192  # ids whose gradients are made at a time on one device


def gather(hidden: Array) -> Array:
  """A chunk's hidden states [T, D] where its logits are made."""
  return rules.constrain(hidden, ('gathered_batch', None))


def project(hidden: Array, unembedding: Array) -> Array:
  """Logits float32 [T, V] of a chunk's hidden states [T, D]."""
  logits = jnp.einsum(
    'td,vd->tv',
    gather(hidden),
    unembedding.astype(hidden.dtype),
    preferred_element_type=jnp.float32,
  )
  return rules.constrain(logits, ('gathered_batch', 'vocab'))


def _products(d_logits, hidden, unembedding):
  """Gradients of hidden states [T, D] and unembedding [V, D], float32."""
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  unembedding = unembedding.astype(hidden.dtype)
  return (
    product('tv,vd->td', d_logits, unembedding),
    product('tv,td->vd', d_logits, hidden),
  )


def pull_back(
  d_logits: Array, hidden: Array, unembedding: Array, total: Array
) -> tuple[Array, Array]:
  """The gradients that a chunk's logits give to what they were made of.

  Where one device holds the whole vocabulary, that of the unembedding is as
  large as the sum it is added to: both are made in slices of the vocabulary,
  and added in place.

  Args:
    d_logits: [T, V], the gradient of the logits, of the type of hidden.
    hidden: [T, D], gathered.
    unembedding: float32 [V, D].
    total: float32 [V, D], the unembedding's gradient from earlier chunks.

  Returns:
    The gradient of hidden, float32 [T, D], and the new total.
  """
  size = total.shape[0]
  if size <= _SLICE or rules.parts('vocab', size) > 1:
    d_hidden, product = _products(d_logits, hidden, unembedding)
    return d_hidden, total + product

  def add(start, width, carry):
    d_hidden, total = carry
    cut = lambda x, axis: jax.lax.dynamic_slice_in_dim(x, start, width, axis)
    one, other = _products(cut(d_logits, 1), hidden, cut(unembedding, 0))
    total = jax.lax.dynamic_update_slice_in_dim(
      total, cut(total, 0) + other, start, 0
    )
    return d_hidden + one, total

  count, rest = divmod(size, _SLICE)
  carry = jax.lax.fori_loop(
    0,
    count,
    lambda i, carry: add(i * _SLICE, _SLICE, carry),
    (jnp.zeros(hidden.shape, jnp.float32), total),
  )
  return add(count * _SLICE, rest, carry) if rest else carry


def _fill(x, counted):
  """X [B, C, ...] with zeros where nothing counts: NaN may stand there."""
  counted = counted.reshape(counted.shape + (1,) * (x.ndim - 2))
  return jnp.where(counted, x, jnp.zeros((), x.dtype))


class Layout:
  """Which positions of a batch make up which chunk."""

  def __init__(self, weights: Array, chunk_tokens: int):
    """Plans chunks.

    Args:
      weights: float32 [B, L]; what is not 0 counts.
      chunk_tokens: tokens a device whose logits, over the whole vocabulary,
        exist at one time.
    """
    batch, length = weights.shape
    rows = max(1, batch // rules.parts('batch', batch))
    # Where rows are split, this many devices share a row's logits.
    tokens = chunk_tokens * rules.parts('length', length)
    self._size = max(1, min(length, tokens // rows))
    counted = weights != 0
    self._amount = jnp.sum(counted, axis=1)
    order = jnp.argsort(~counted, axis=1, stable=True)
    # Beyond the row: read as 0 and never written.
    padding = [(0, 0), (0, -length % self._size)]
    self._order = jnp.pad(order, padding, constant_values=length)
    self.count = -(-jnp.max(self._amount) // self._size)

  def _positions(self, index):
    start = index * self._size
    return jax.lax.dynamic_slice_in_dim(self._order, start, self._size, 1)

  def take(self, tree: types.PyTree, index: Array) -> types.PyTree:
    """Chunk number `index` of [B, L, ...] arrays: [T, ...], row by row.

    Positions that do not count, where a row has fewer than others, are zeros.
    """
    positions = self._positions(index)
    number = index * self._size + jnp.arange(self._size)
    counted = number < self._amount[:, None]

    def one(x):
      row = lambda r, p: r.at[p].get(mode='fill', fill_value=0)
      part = _fill(jax.vmap(row)(x, positions), counted)
      # Cut before anything is gathered: else whole rows would be.
      part = rules.constrain(part, ('batch',) + (None,) * (x.ndim - 1))
      return part.reshape(-1, *x.shape[2:])

    return jax.tree.map(one, tree)

  def put(self, whole: Array, part: Array, index: Array) -> Array:
    """[B, L, ...] with chunk number `index` replaced by its [T, ...]."""
    part = part.reshape(whole.shape[0], self._size, *whole.shape[2:])
    part = rules.constrain(part, ('batch',) + (None,) * (whole.ndim - 1))
    row = lambda r, p, x: r.at[p].set(x, mode='drop', unique_indices=True)
    return jax.vmap(row)(whole, self._positions(index), part)

  def sum_rows(self, values: Array) -> Array:
    """Sums of a chunk's [T, ...] by row: [B, ...]."""
    by_row = values.reshape(-1, self._size, *values.shape[1:])
    return jnp.sum(by_row, axis=1)


def fold(
  function: Callable[..., types.PyTree],
  carry: types.PyTree,
  layout: Layout,
  arrays: types.PyTree,
) -> types.PyTree:
  """Runs `carry = function(carry, chunk, index)` over the chunks that count.

  Args:
    function: its chunk is a tree of [T, ...] like `arrays`.
    carry: its first value.
    layout: the chunks.
    arrays: a tree of [B, L, ...].
  """

  def body(index, carry):
    return function(carry, layout.take(arrays, index), index)

  return jax.lax.fori_loop(0, layout.count, body, carry)
