"""The structures that cross rooms: batches of rows and teacher targets."""

from typing import Any

from flax import struct
import jax

Array = jax.Array
PyTree = Any


@struct.dataclass
class Batch:
  """Packed rows.

  Attributes:
    tokens: int32 [B, L], the model's input; pad id where segment_ids is 0.
    targets: int32 [B, L], the token that follows within the same segment.
    positions: int32 [B, L], from 0 at the start of each segment.
    segment_ids: int32 [B, L], 1, 2, ... by packed example, 0 on padding.
    weights: float32 [B, L], what each target counts for; 0 on prompts,
      padding and the last token of a segment.
    row_id: int32 [B], the row's index in its prepared data.
  """

  tokens: Array
  targets: Array
  positions: Array
  segment_ids: Array
  weights: Array
  row_id: Array


@struct.dataclass
class Targets:
  """What a teacher says about a batch.

  Attributes:
    final_hidden: [B, L, D_t], the teacher's last hidden states after its final
      norm; its logits are `final_hidden @ unembedding.T`.
    unembedding: [V_t, D_t], the teacher's output embedding.
  """

  final_hidden: Array
  unembedding: Array
