"""Looks up rows of an embedding that is split over devices."""

import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import computed
from kd.partitioning import rules

Array = types.Array


def _lookup(table, tokens):
  """Returns the rows [B, L, D] of tokens [B, L].

  The table is split by vocabulary. Each device takes all ids of its columns
  instead of all columns of its ids: columns of the table and of the result are
  exchanged, and no device ever holds the whole table.
  """
  table = _laid_out(table, (None, 'lookup_width'))
  tokens = rules.constrain(tokens, ('gathered_batch', None))
  x = computed.rows(table, tokens)
  x = rules.constrain(x, ('gathered_batch', None, 'lookup_width'))
  # One exchange for each axis of the mesh: the compiler gathers all of it
  # where it has to exchange along two at a time.
  return rules.constrain(x, ('gathered_batch', 'length', 'looked_up_width'))


def _laid_out(table, names):
  """Lays out a table, which may be several arrays with a row for each id."""
  return jax.tree.map(lambda x: rules.constrain(x, names), table)


def _scaled(x, scale, dtype):
  """Returns x in `dtype`, times the scale rounded to `dtype`."""
  x = x.astype(dtype)
  return x if scale is None else x * jnp.asarray(scale, dtype)


def embed(
  table: Array, tokens: Array, dtype: jnp.dtype, scale: float | None
) -> Array:
  """Returns the first layer's input.

  Args:
    table: [V, D].
    tokens: int32 [B, L].
    dtype: data type of the result.
    scale: rows are multiplied by it, once it is rounded to `dtype`; or None.

  Returns:
    [B, L, D].
  """
  x = _scaled(_lookup(table, tokens), scale, dtype)
  return rules.constrain(x, ('batch', 'length', None))


def embed_few(
  table: Array, tokens: Array, dtype: jnp.dtype, scale: float | None
) -> Array:
  """Does as `embed`, for so few tokens that to sum them over devices is cheap.

  The table stays split by vocabulary: each device looks up the tokens of its
  part, and the parts are summed.
  """
  table = _laid_out(table, ('vocab', None))
  tokens = rules.constrain(tokens, ('gathered_batch', None))
  x = computed.rows(table, tokens)
  x = rules.constrain(x, ('gathered_batch', None, None))
  return _scaled(x, scale, dtype)
