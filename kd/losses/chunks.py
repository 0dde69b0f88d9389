"""Computes logits in chunks of tokens, since a batch's do not fit in memory.

Each chunk takes the next counted positions of every row, so that prompts and
padding are skipped. Its tokens form one axis T, since matrix products over two
axes are far slower on a CPU. A chunk's hidden states are gathered on all
devices while the vocabulary stays sharded, which moves the least data.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from kd.core import types
from kd.partitioning import rules

Array = types.Array

_VOCAB_BLOCK = 8192  # ids whose gradients one device computes at a time


def gather(hidden: Array) -> Array:
  """Returns a chunk's hidden states [T, D], gathered to compute its logits."""
  return rules.constrain(hidden, ('gathered_batch', None))


def project(hidden: Array, unembedding: Array) -> Array:
  """Computes logits, float32 [T, V], from a chunk's hidden states [T, D]."""
  logits = jnp.einsum(
    'td,vd->tv',
    gather(hidden),
    unembedding.astype(hidden.dtype),
    preferred_element_type=jnp.float32,
  )
  return rules.constrain(logits, ('gathered_batch', 'vocab'))


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _d_hidden(d_logits, unembedding):
  return _product('tv,vd->td', d_logits, unembedding.astype(d_logits.dtype))


def _products(d_logits, hidden, unembedding):
  """Returns the gradients of hidden states [T, D] and unembedding [V, D]."""
  d_hidden = _d_hidden(d_logits, unembedding)
  return d_hidden, _product('tv,td->vd', d_logits, hidden)


def pull_back(
  d_logits: Array, hidden: Array, unembedding: Array, total: Array | None
) -> tuple[Array, Array | None]:
  """Backpropagates logits' gradients to hidden states and the unembedding.

  If one device holds the whole vocabulary, a chunk's gradient of the
  unembedding is as large as the accumulated sum. It is then computed in blocks
  of the vocabulary, which are added in place.

  Args:
    d_logits: [T, V], the gradient of the logits, in the data type of `hidden`.
    hidden: [T, D], gathered.
    unembedding: float32 [V, D].
    total: float32 [V, D], the unembedding's gradient summed over earlier
      chunks; None if the unembedding is not trained.

  Returns:
    The gradient of `hidden`, float32 [T, D], and the new total.
  """
  if total is None:
    return _d_hidden(d_logits, unembedding), None
  size = total.shape[0]
  if size <= _VOCAB_BLOCK or rules.shards('vocab', size) > 1:
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

  count, rest = divmod(size, _VOCAB_BLOCK)
  carry = jax.lax.fori_loop(
    0,
    count,
    lambda i, carry: add(i * _VOCAB_BLOCK, _VOCAB_BLOCK, carry),
    (jnp.zeros(hidden.shape, jnp.float32), total),
  )
  return add(count * _VOCAB_BLOCK, rest, carry) if rest else carry


def _fill(x, counted):
  """Zeroes x [B, C, ...] where `counted` is false, even if it is NaN there."""
  counted = counted.reshape(counted.shape + (1,) * (x.ndim - 2))
  return jnp.where(counted, x, jnp.zeros((), x.dtype))


class Layout:
  """Assigns the counted positions of a batch to chunks."""

  def __init__(self, weights: Array, chunk_tokens: int):
    """Plans the chunks.

    Args:
      weights: float32 [B, L]; positions with a nonzero weight count.
      chunk_tokens: tokens per device whose logits, over the whole vocabulary,
        are computed at a time.
    """
    batch, length = weights.shape
    rows = max(1, batch // rules.shards('batch', batch))
    # Devices that share a row compute its logits together.
    tokens = chunk_tokens * rules.shards('length', length)
    self._size = max(1, min(length, tokens // rows))
    counted = weights != 0
    self._amount = jnp.sum(counted, axis=1)
    order = jnp.argsort(~counted, axis=1, stable=True)
    # Positions beyond the row are read as 0 and never written.
    padding = [(0, 0), (0, -length % self._size)]
    self._order = jnp.pad(order, padding, constant_values=length)
    self.count = -(-jnp.max(self._amount) // self._size)

  def _positions(self, index):
    start = index * self._size
    return jax.lax.dynamic_slice_in_dim(self._order, start, self._size, 1)

  def take(self, tree: types.PyTree, index: Array) -> types.PyTree:
    """Returns chunk `index` of arrays [B, L, ...] as [T, ...], row by row.

    Rows with fewer counted positions are padded with zeros.
    """
    positions = self._positions(index)
    number = index * self._size + jnp.arange(self._size)
    counted = number < self._amount[:, None]

    def one(x):
      row = lambda r, p: r.at[p].get(mode='fill', fill_value=0)
      chunk = _fill(jax.vmap(row)(x, positions), counted)
      # Must come before the chunk is gathered, or whole rows are gathered.
      chunk = rules.constrain(chunk, ('batch',) + (None,) * (x.ndim - 1))
      return chunk.reshape(-1, *x.shape[2:])

    return jax.tree.map(one, tree)

  def put(self, whole: Array, chunk: Array, index: Array) -> Array:
    """Returns `whole` [B, L, ...] with a chunk [T, ...] written into it."""
    chunk = chunk.reshape(whole.shape[0], self._size, *whole.shape[2:])
    chunk = rules.constrain(chunk, ('batch',) + (None,) * (whole.ndim - 1))
    row = lambda r, p, x: r.at[p].set(x, mode='drop', unique_indices=True)
    return jax.vmap(row)(whole, self._positions(index), chunk)

  def sum_rows(self, values: Array) -> Array:
    """Sums a chunk's values [T, ...] by row: [B, ...]."""
    by_row = values.reshape(-1, self._size, *values.shape[1:])
    return jnp.sum(by_row, axis=1)


def fold(
  function: Callable[..., types.PyTree],
  carry: types.PyTree,
  layout: Layout,
  arrays: types.PyTree,
) -> types.PyTree:
  """Runs `carry = function(carry, chunk, index)` over all chunks.

  Args:
    function: called with a tree like `arrays`, of [T, ...], as its chunk.
    carry: the initial value.
    layout: the layout of the chunks.
    arrays: a tree of [B, L, ...].
  """

  def body(index, carry):
    return function(carry, layout.take(arrays, index), index)

  return jax.lax.fori_loop(0, layout.count, body, carry)
