"""Types that all packages share: batches and layer outputs."""

import dataclasses
from typing import Any

from flax import struct
import jax

Array = jax.Array
PyTree = Any

# Values of `Batch.parts`: the parts of an example's answer.
ANSWER, RATIONALE, SAMPLED = 0, 1, 2


@struct.dataclass
class Images:
  """The images of packed rows, at most I in each row.

  Attributes:
    pixels: uint8 [B, I, S, S, 3], RGB, resized to the model's size; a row's
      images in the order of its tokens, then zeros. None with `features`.
    index: int32 [B, L], i x T + t at the position of soft token t of the row's
      image i, where an image has T soft tokens; -1 on text.
    features: [B, I x T, E], the tower's output, averaged over the patches of
      each soft token; None if it is computed from the pixels.
  """

  pixels: Array | None
  index: Array
  features: Array | None = None

  def ids(self, tokens: int) -> Array:
    """Returns the image of each position: int32 [B, L], from 1; 0 on text.

    Args:
      tokens: T, number of soft tokens of an image.
    """
    return self.index // tokens + 1


@struct.dataclass
class TeacherTokens:
  """Packed rows of the teacher, if its input differs from the student's.

  Its tokenization differs, or a prefix precedes each example. An aligned span
  is a smallest range of bytes that begins and ends at token boundaries of both
  tokenizations.

  Attributes:
    tokens: int32 [B, M], the teacher's input; pad id where segment_ids is 0.
    targets: int32 [B, M], the token that follows within the same segment.
    positions: int32 [B, M], from 0 at the start of each segment.
    segment_ids: int32 [B, M], 1, 2, ... by packed example, 0 on padding.
    spans: int32 [B, M], the aligned span of each target: 1, 2, ... in a row; 0
      for targets that are not compared. None if both models share a tokenizer.
    student_spans: int32 [B, L], the aligned span of each target of the student;
      or None.
    indices: int32 [B, L], the teacher's index of each position of the student,
      -1 where there is none. None if the tokenizations differ.
  """

  tokens: Array
  targets: Array
  positions: Array
  segment_ids: Array
  spans: Array | None
  student_spans: Array | None
  indices: Array | None = None


@struct.dataclass
class Batch:
  """Packed rows.

  Attributes:
    tokens: int32 [B, L], the model's input; pad id where segment_ids is 0.
    targets: int32 [B, L], the token that follows within the same segment.
    positions: int32 [B, L], from 0 at the start of each segment.
    segment_ids: int32 [B, L], 1, 2, ... by packed example, 0 on padding.
    parts: int32 [B, L], the part of the answer that each target belongs to:
      RATIONALE; SAMPLED, if the student sampled it; otherwise ANSWER, also on
      prompts and padding.
    weights: float32 [B, L], the weight of each target; 0 on prompts and
      padding.
    row_id: int32 [B], the row's index in its prepared data.
    images: the rows' images; None without images, and then compiled programs
      contain no vision tower.
    teacher: the same rows as input of the teacher; None if it is the same as
      the student's.
    sampling_logprobs: float32 [B, L], the log-probability of each target that
      the student sampled, under the parameters that sampled it; 0 elsewhere.
      None if targets have no importance weights.
    teacher_weights: float32 [B, L, n], the weight of each of n teachers in the
      mixture at each position, summing to 1 except on padding; None if the
      weights are the same at all positions.
  """

  tokens: Array
  targets: Array
  positions: Array
  segment_ids: Array
  parts: Array
  weights: Array
  row_id: Array
  images: Images | None = None
  teacher: TeacherTokens | None = None
  sampling_logprobs: Array | None = None
  teacher_weights: Array | None = None


@dataclasses.dataclass(frozen=True)
class TapSpec:
  """Names the layer outputs that a forward pass returns; layers count from 0.

  Attributes:
    hidden: layers whose output (the residual stream after them) is returned.
    attention: layers whose queries, keys and values are returned.
    tower: layers of the vision tower whose output is returned.
    soft_tokens: whether the projected soft tokens are returned.
    features: whether the tower's output is returned; see Images.features.
  """

  hidden: tuple[int, ...]
  attention: tuple[int, ...]
  tower: tuple[int, ...] = ()
  soft_tokens: bool = False
  features: bool = False

  def check(self, num_layers: int, tower_layers: int = 0) -> None:
    """Raises ValueError if one of the layers does not exist.

    Args:
      num_layers: number of layers of the model.
      tower_layers: number of layers of its vision tower; 0 without a tower.
    """
    for layer in self.hidden + self.attention:
      if not 0 <= layer < num_layers:
        raise ValueError(f'no layer {layer}: the model has {num_layers}')
    for layer in self.tower:
      if not 0 <= layer < tower_layers:
        raise ValueError(f'no layer {layer}: the tower has {tower_layers}')
    if (self.soft_tokens or self.features) and not tower_layers:
      raise ValueError('no soft tokens: the model has no vision tower')

  def places(self, layers: range, period: int) -> 'TapSpec':
    """Returns the indices 0..period-1 of these layers within their periods."""

    def among(chosen):
      places = {(i - layers.start) % period for i in chosen if i in layers}
      return tuple(sorted(places))

    return TapSpec(among(self.hidden), among(self.attention))


@struct.dataclass
class Taps:
  """The layer outputs that a TapSpec names.

  Attributes:
    hidden: [n, B, L, D], the residual stream after n layers, or None.
    query: [m, B, L, N, H], the queries of attention in m layers, or None.
    key: [m, B, L, G, H], likewise.
    value: [m, B, L, G, H], likewise.
    tower: [k, B, L, E], the output of k layers of the vision tower, averaged
      over the patches of each soft token, at its position; 0 on text. Or None.
    soft_tokens: [1, B, L, D], projected soft tokens, likewise.
    features: [1, B, I x T, E], see Images.features; or None.
  """

  hidden: Array | None
  query: Array | None
  key: Array | None
  value: Array | None
  tower: Array | None = None
  soft_tokens: Array | None = None
  features: Array | None = None
