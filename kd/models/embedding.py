"""Looks up rows of an embedding that is sharded over devices."""

import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import computed
from kd.partitioning import rules

Array = types.Array


def _lookup(table, tokens):
  """Returns the rows [B, L, D] of tokens [B, L].

  The table is sharded by vocabulary. For the lookup it is resharded by columns,
  so that each device looks up all tokens in its columns, and so is the result
  afterwards. No device ever has the whole table.
  """
  table = _laid_out(table, (None, 'lookup_width'))
  tokens = rules.constrain(tokens, ('gathered_batch', None))
  x = computed.rows(table, tokens)
  x = rules.constrain(x, ('gathered_batch', None, 'lookup_width'))
  # One exchange per axis of the mesh, since the compiler gathers the whole
  # array to exchange along two axes at a time.
  return rules.constrain(x, ('gathered_batch', 'length', 'looked_up_width'))


def _laid_out(table, names):
  """Lays out a table, which may be several arrays with one row per id."""
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
    scale: multiplier of the rows, rounded to `dtype` first; or None.

  Returns:
    [B, L, D].
  """
  x = _scaled(_lookup(table, tokens), scale, dtype)
  return rules.constrain(x, ('batch', 'length', None))


def embed_few(
  table: Array, tokens: Array, dtype: jnp.dtype, scale: float | None
) -> Array:
  """Computes the same as `embed`, for few tokens.

  The table stays sharded by vocabulary: each device looks up the tokens of its
  shard, and the results are summed, which is cheap for few tokens.
  """
  table = _laid_out(table, ('vocab', None))
  tokens = rules.constrain(tokens, ('gathered_batch', None))
  x = computed.rows(table, tokens)
  x = rules.constrain(x, ('gathered_batch', None, None))
  return _scaled(x, scale, dtype)
