"""The attention mask: which keys of its row a query sees."""

from flax import struct
import jax

from kd.core import types

Array = types.Array


@struct.dataclass
class Positions:
  """Positions of tokens in rows of packed segments.

  Attributes:
    positions: int32 [B, L], ascending one by one within a segment.
    segment_ids: int32 [B, L]; attention stays within equal ids, 0 is padding.
  """

  positions: Array
  segment_ids: Array

  def part(self, start: int | Array, size: int) -> 'Positions':
    """Returns those of tokens start..start + size - 1 of each row."""
    return jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=1), self
    )


@struct.dataclass
class AttentionMask:
  """A causal mask within segments, with a sliding window or without.

  Attributes:
    row: positions of the row's tokens, queries and keys alike.
    window: number of keys that a query sees at most, its own included; None:
      all earlier ones.
  """

  row: Positions
  window: int | None = struct.field(pytree_node=False)

  def reach(self, length: int) -> int:
    """Returns how many positions back a query in a row of `length` may look."""
    return length - 1 if self.window is None else min(self.window, length) - 1


def visible(queries: Positions, keys: Positions, window: int | None) -> Array:
  """Returns whether each query sees each key: bool [B, L, M]."""
  distance = queries.positions[:, :, None] - keys.positions[:, None, :]
  ids = keys.segment_ids[:, None, :]
  seen = (queries.segment_ids[:, :, None] == ids) & (ids > 0) & (distance >= 0)
  return seen if window is None else seen & (distance < window)
