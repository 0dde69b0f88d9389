"""Loss terms by name.

A term gives a loss in nats for each target token, from what the two models say
of it. It never sees a model: only arrays, and the sizes that a model has.
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

# Which targets of a row count for a term.
PARTS = {
  'all': None,
  'answer': types.ANSWER,
  'rationale': types.RATIONALE,
  'sampled': types.SAMPLED,
}

Values = Mapping[str, types.Array]


@struct.dataclass
class TokenInputs:
  """The tokens of a chunk, as terms of next-token distributions read them.

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
  """What a term must know of a model.

  Attributes:
    layers: S.
    width: D.
    heads: N.
    kv_heads: G.
    head_width: H.
    attention_scale: what query-key products are multiplied by.
    windows: by layer, how far a query sees, or None: any distance.
  """

  layers: int
  width: int
  heads: int
  kv_heads: int
  head_width: int
  attention_scale: float
  windows: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Context:
  """What a term is built in.

  Attributes:
    steps: updates of the whole run.
    student: the student's sizes, or None where no term compares layers.
    teacher: the teacher's sizes, or None without a teacher.
  """

  steps: int
  student: Sizes | None
  teacher: Sizes | None


@dataclasses.dataclass(frozen=True, eq=False)
class LogitsLoss:
  """A loss of next-token distributions.

  Attributes:
    per_token: maps (TokenInputs, values) to losses [...] in nats and, for each
      teacher that it reads, bool [...], whether that teacher's distribution is
      finite.
    part: a name of PARTS.
    needs_teacher: whether it reads the teacher's distribution.
    reads_labels: whether it holds targets to be right; never what the student
      wrote, therefore: it would be taught to repeat itself.
    values: schedules of its scalar arguments; their values at a step are what
      per_token is given.
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
  """A loss of what layers show.

  Attributes:
    per_token: of (its parameters, student's Taps, teacher's Taps, batch,
      values, layer map or None, rng or None) to losses [B, L].
    part: a name of PARTS.
    values: as for LogitsLoss.
    student_hidden: layers whose residual stream it reads.
    teacher_hidden: likewise.
    student_attention: layers whose queries, keys and values it reads.
    teacher_attention: likewise.
    init: makes its parameters from an rng; {} if it has none.
    layer_map: the first map, int32 [n], into teacher_hidden, for a term whose
      map is measured again during the run; else None.
    remap_every: updates between two measurements; 0 without layer_map.
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
    key: its name in the config and in the metrics.
    weight: what it counts for, by step.
    loss: what it is.
  """

  key: str
  weight: schedules.Schedule
  loss: LogitsLoss | LayerLoss


def check_part(part: str) -> None:
  """Raises ConfigError unless `part` is a name of PARTS."""
  if part not in PARTS:
    raise errors.unknown('part', 'part', part, list(PARTS))


def positive(value: Any, name: str, steps: int) -> schedules.Schedule:
  """A number or schedule that must stay above 0.

  Raises:
    ConfigError: it does not.
  """
  schedule = schedules.build(value, name, steps)
  lowest, _ = schedules.extremes(schedule, steps)
  if not lowest > 0:
    raise errors.ConfigError(name, f'found {lowest:g}', legal='above 0')
  return schedule
