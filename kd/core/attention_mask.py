"""The attention mask: the keys of a row that each query attends to."""

from flax import struct
import jax

from kd.core import types

Array = types.Array


@struct.dataclass
class Positions:
  """Positions of tokens in rows of packed segments.

  Attributes:
    positions: int32 [B, L], consecutive within a segment.
    segment_ids: int32 [B, L]; attention stays within equal ids, 0 is padding.
    image_ids: int32 [B, L], 1, 2, ... by image of the row, 0 on text; None
      without images.
  """

  positions: Array
  segment_ids: Array
  image_ids: Array | None = None

  def part(self, start: int | Array, size: int) -> 'Positions':
    """Returns the positions of tokens start..start + size - 1 of each row."""
    return jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=1), self
    )


@struct.dataclass
class AttentionMask:
  """A causal mask within segments, with an optional sliding window.

  Tokens of an image also attend to later tokens of the image. The window limits
  how far back they attend, as it does for text.

  Attributes:
    row: positions of the row's tokens, for queries and keys alike.
    window: maximum number of keys that a query attends to, including its own
      but not the later tokens of its image; None for no limit.
    image_tokens: number of tokens of an image; 0 without images.
  """

  row: Positions
  window: int | None = struct.field(pytree_node=False)
  image_tokens: int = struct.field(pytree_node=False, default=0)

  def reach(self, length: int) -> int:
    """Returns how many positions back a query in a row of `length` attends."""
    return length - 1 if self.window is None else min(self.window, length) - 1

  @property
  def lookahead(self) -> int:
    """Returns how many positions ahead a query attends."""
    return max(self.image_tokens - 1, 0)


def attends(queries: Positions, keys: Positions, window: int | None) -> Array:
  """Returns whether each query attends to each key: bool [B, L, M].

  Padding attends to padding; losses compare it as zeros.
  """
  distance = queries.positions[:, :, None] - keys.positions[:, None, :]
  seen = distance >= 0
  if keys.image_ids is not None:
    image = keys.image_ids[:, None, :]
    seen |= (queries.image_ids[:, :, None] == image) & (image > 0)
  if window is not None:
    seen &= distance < window
  return seen & (
    queries.segment_ids[:, :, None] == keys.segment_ids[:, None, :]
  )


def visible(queries: Positions, keys: Positions, window: int | None) -> Array:
  """Returns `attends` without keys that are padding: bool [B, L, M]."""
  return attends(queries, keys, window) & (keys.segment_ids[:, None, :] > 0)
