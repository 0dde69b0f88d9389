"""Which keys a query sees."""

from flax import struct
import jax

from kd.core import types

Array = types.Array


@struct.dataclass
class Positions:
  """Where tokens stand in their rows.

  Attributes:
    positions: int32 [B, L], ascending one by one within a segment.
    segment_ids: int32 [B, L]; attention stays within equal ids, 0 is padding.
  """

  positions: Array
  segment_ids: Array

  def part(self, start: int | Array, size: int) -> 'Positions':
    """Returns positions start to start + size - 1 of each row."""
    return jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=1), self
    )


@struct.dataclass
class AttentionMask:
  """Which keys of its own row a query sees: earlier ones, and itself.

  Attributes:
    places: of the row's tokens.
    window: how many keys at most, itself included; None for all.
  """

  places: Positions
  window: int | None = struct.field(pytree_node=False)

  def reach(self, length: int) -> int:
    """How far back a query in a row of this length may look, in positions."""
    return length - 1 if self.window is None else min(self.window, length) - 1


def mask(queries: Positions, keys: Positions, window: int | None) -> Array:
  """Which keys a query sees: bool [B, L, M]."""
  distance = queries.positions[:, :, None] - keys.positions[:, None, :]
  ids = keys.segment_ids[:, None, :]
  seen = (queries.segment_ids[:, :, None] == ids) & (ids > 0) & (distance >= 0)
  return seen if window is None else seen & (distance < window)
