"""Loss terms by name.

A term is a function of one chunk's logits that returns a loss for each token,
in nats. It never sees the model that made them.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import struct

from kd.core import errors
from kd.core import registry
from kd.core import types

LOSSES = registry.Registry('loss')


@struct.dataclass
class Logits:
  """What a term may read.

  Attributes:
    student: float32 [..., V].
    teacher: float32 [..., V_t], or None without a teacher.
    labels: int32 [...], the true next token.
  """

  student: types.Array
  teacher: types.Array | None
  labels: types.Array

  def shared(self) -> tuple[types.Array, types.Array]:
    """Student's and teacher's logits of the ids that both models have.

    Embeddings of one tokenizer differ in padding rows; those that one model
    lacks are left out before any softmax.
    """
    size = min(self.student.shape[-1], self.teacher.shape[-1])
    return self.student[..., :size], self.teacher[..., :size]


@dataclasses.dataclass(frozen=True)
class Term:
  """A named part of the objective.

  Attributes:
    key: its name in the config and in the metrics.
    weight: what it counts for.
    per_token: maps Logits to losses [...] in nats.
    needs_teacher: whether it reads the teacher's logits.
  """

  key: str
  weight: float
  per_token: Callable[[Logits], types.Array]
  needs_teacher: bool


def build(losses: Mapping[str, Mapping[str, Any]]) -> tuple[Term, ...]:
  """The terms of the config's `losses`, in order of their keys.

  Raises:
    ConfigError: a term has an unknown name or argument, or a weight below 0.
  """
  if not losses:
    raise errors.ConfigError('losses', 'no term', legal='one term or more')
  terms = []
  for key in sorted(losses):
    path = f'losses.{key}'
    spec = dict(losses[key])
    if 'name' not in spec or 'weight' not in spec:
      missing = 'name' if 'name' not in spec else 'weight'
      raise errors.ConfigError(f'{path}.{missing}', 'missing')
    weight = spec.pop('weight')
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not weight >= 0:
      raise errors.ConfigError(
        f'{path}.weight', f'found {weight!r}', legal='a number, 0 or more'
      )
    per_token, needs_teacher = LOSSES.build(spec, path)
    terms.append(Term(key, float(weight), per_token, needs_teacher))
  return tuple(terms)
