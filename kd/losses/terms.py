"""The loss terms of an objective, registered by name.

A term computes a loss in nats for each target token from the outputs of student
and teacher. It depends on no model, only on arrays and the models' sizes.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import struct

from kd.core import errors
from kd.core import registry
from kd.core import schedules
from kd.core import types
from kd.losses import distributions

TERMS = registry.Registry('loss')

# The part of layer terms that counts positions of images, each with weight 1,
# instead of targets.
IMAGE = 'image'
# The targets of a row that count for a term, by name of the part; None: all.
PARTS = {
  'all': None,
  'answer': types.ANSWER,
  'rationale': types.RATIONALE,
  'sampled': types.SAMPLED,
}

Values = Mapping[str, types.Array]


@struct.dataclass
class TokenInputs:
  """The inputs of a LogitsLoss: logits, teacher and labels of a chunk.

  Attributes:
    student: float32 [..., V], the student's logits.
    teacher: the teacher's distribution, or None without a teacher.
    labels: int32 [...], the true next token.
  """

  student: types.Array
  teacher: distributions.TokenDistribution | None
  labels: types.Array


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of a model that terms depend on.

  Attributes:
    layers: S.
    width: D.
    heads: N.
    kv_heads: G.
    head_width: H.
    attention_scale: factor of query-key products.
    windows: attention window of each layer in tokens; None if it is global.
    image_tokens: T, soft tokens of an image; 0 without a vision tower.
    tower_layers: number of layers of the vision tower; 0 without one.
    tower_width: E, width of the vision tower.
  """

  layers: int
  width: int
  heads: int
  kv_heads: int
  head_width: int
  attention_scale: float
  windows: tuple[int | None, ...]
  image_tokens: int = 0
  tower_layers: int = 0
  tower_width: int = 0


@dataclasses.dataclass(frozen=True)
class Context:
  """The properties of a run that terms are built from.

  Attributes:
    steps: number of updates of the run.
    student: the student's sizes, or None where no term compares layers.
    teacher: the teacher's sizes, or None without a teacher.
  """

  steps: int
  student: Sizes | None
  teacher: Sizes | None


@dataclasses.dataclass(frozen=True, eq=False)
class LogitsLoss:
  """A loss that uses next-token distributions.

  Attributes:
    per_token: maps (TokenInputs, values) to losses [...] in nats and, for each
      teacher that it uses, bool [...], whether that teacher's distribution is
      finite.
    part: a name in PARTS.
    needs_teacher: whether it uses the teacher's distribution.
    reads_labels: whether it treats targets as ground truth; such terms skip
      tokens that the student sampled.
    values: schedules of its scalar arguments; per_token gets their values at
      the step.
  """

  per_token: Callable[
    [TokenInputs, Values], tuple[types.Array, tuple[types.Array, ...]]
  ]
  part: str
  needs_teacher: bool
  reads_labels: bool
  values: Mapping[str, schedules.Schedule]


@dataclasses.dataclass(frozen=True, eq=False)
class LayerLoss:
  """A loss that uses layer outputs.

  Attributes:
    per_token: maps (its parameters, the student's Taps, the teacher's Taps,
      batch, values, layer map or None, rng) to losses [B, L].
    part: a name in PARTS, or IMAGE.
    values: see LogitsLoss.
    student_hidden: the student's layers whose hidden states it uses.
    teacher_hidden: the teacher's layers whose hidden states it uses.
    student_attention: the student's layers whose queries, keys and values it
      uses.
    teacher_attention: the same for the teacher.
    init: creates its parameters from a random key; {} if it has none.
    layer_map: initial map of a term with an adaptive map, int32 [n], indices
      into teacher_hidden; else None.
    remap_every: updates between recomputations of the map; 0 without layer_map.
    similarity: maps (the student's Taps, the teacher's Taps, batch) to
      similarities [n, m] for choosing the map; None without layer_map.
    student_tower: the layers of the student's vision tower that it uses.
    teacher_tower: the same for the teacher.
    soft_tokens: whether it uses the soft tokens of both.
  """

  per_token: Callable[..., types.Array]
  part: str
  values: Mapping[str, schedules.Schedule]
  student_hidden: tuple[int, ...]
  teacher_hidden: tuple[int, ...]
  student_attention: tuple[int, ...]
  teacher_attention: tuple[int, ...]
  init: Callable[[types.Array], types.PyTree]
  layer_map: Any
  remap_every: int
  similarity: Callable[..., types.Array] | None
  student_tower: tuple[int, ...] = ()
  teacher_tower: tuple[int, ...] = ()
  soft_tokens: bool = False

  @property
  def needs_teacher(self) -> bool:
    return True

  @property
  def reads_labels(self) -> bool:
    return False


@dataclasses.dataclass(frozen=True, eq=False)
class SpanLoss:
  """A loss that uses likelihoods of aligned spans; see types.TeacherTokens.

  Attributes:
    per_span: maps (the teacher's log-likelihoods [...], the student's, values)
      to losses [...] in nats.
    part: a name in PARTS.
    values: see LogitsLoss.
  """

  per_span: Callable[[types.Array, types.Array, Values], types.Array]
  part: str
  values: Mapping[str, schedules.Schedule]

  @property
  def needs_teacher(self) -> bool:
    return True

  @property
  def reads_labels(self) -> bool:
    return False


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
  """A named part of the objective.

  Attributes:
    key: its name in the config and in metrics.
    weight: schedule of its weight in the objective.
    loss: its loss.
  """

  key: str
  weight: schedules.Schedule
  loss: LogitsLoss | LayerLoss | SpanLoss


def check_part(part: str, of_layers: bool = False) -> None:
  """Raises ConfigError unless `part` is in PARTS, or IMAGE for layer terms."""
  legal = [*PARTS, IMAGE] if of_layers else list(PARTS)
  if part not in legal:
    raise errors.unknown('part', 'part', part, legal)


def positive(value: Any, name: str, steps: int) -> schedules.Schedule:
  """Builds the schedule of a value that must stay above 0.

  Raises:
    ConfigError: the value reaches 0 or less.
  """
  schedule = schedules.build(value, name, steps)
  lowest, _ = schedules.extremes(schedule, steps)
  if not lowest > 0:
    raise errors.ConfigError(name, f'found {lowest:g}', legal='above 0')
  return schedule
