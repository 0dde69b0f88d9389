"""Types that all packages share: batches and layer outputs."""

import dataclasses
from typing import Any

from flax import struct
import jax

Array = jax.Array
PyTree = Any

# The parts of an example's answer, as `Batch.parts` numbers them.
ANSWER, RATIONALE, SAMPLED = 0, 1, 2


@struct.dataclass
class Batch:
  """Packed rows.

  Attributes:
    tokens: int32 [B, L], the model's input; pad id where segment_ids is 0.
    targets: int32 [B, L], the token that follows within the same segment.
    positions: int32 [B, L], from 0 at the start of each segment.
    segment_ids: int32 [B, L], 1, 2, ... by packed example, 0 on padding.
    parts: int32 [B, L], the part of its example's answer that each target
      belongs to: RATIONALE; SAMPLED, where the student wrote it; or ANSWER,
      which is also what stands on prompts, on padding, and where a task tells
      no parts apart.
    weights: float32 [B, L], what each target counts for; 0 on prompts and
      padding.
    row_id: int32 [B], the row's index in its prepared data.
  """

  tokens: Array
  targets: Array
  positions: Array
  segment_ids: Array
  parts: Array
  weights: Array
  row_id: Array


@dataclasses.dataclass(frozen=True)
class TapSpec:
  """Which layers show what; numbers count from 0.

  Attributes:
    hidden: layers whose output, the residual stream behind them, is shown.
    attention: layers whose queries, keys and values are shown.
  """

  hidden: tuple[int, ...]
  attention: tuple[int, ...]

  def check(self, num_layers: int) -> None:
    """Raises ValueError if one of the layers does not exist."""
    for layer in self.hidden + self.attention:
      if not 0 <= layer < num_layers:
        raise ValueError(f'layer {layer} of {num_layers} is to be tapped')

  def places(self, layers: range, period: int) -> 'TapSpec':
    """The places 0..period-1 that these layers have in their periods."""

    def among(chosen):
      found = {(i - layers.start) % period for i in chosen if i in layers}
      return tuple(sorted(found))

    return TapSpec(among(self.hidden), among(self.attention))


@struct.dataclass
class Taps:
  """What a model's layers show in addition to its final hidden states.

  Attributes:
    hidden: [n, B, L, D], the residual stream behind n chosen layers, or None.
    query: [m, B, L, N, H], as attention reads it, in m chosen layers, or None.
    key: [m, B, L, G, H], likewise.
    value: [m, B, L, G, H], likewise.
  """

  hidden: Array | None
  query: Array | None
  key: Array | None
  value: Array | None
