"""Scalars of the objective at one step: weights, normalizers, schedules."""

from collections.abc import Sequence

from flax import struct
import jax.numpy as jnp

from kd.core import schedules
from kd.core import types
from kd.losses import modalities
from kd.losses import spans
from kd.losses import teacher_sums
from kd.losses import terms as terms_lib

Array = types.Array


@struct.dataclass
class StepScalars:
  """The scalars that the objective of a step depends on.

  Attributes:
    weights: by term, its weight, float32 [].
    totals: by term, the sum of the weights of targets that count for it, over
      all micro-batches and devices, float32 [].
    values: by term, its scalar arguments.
    fraction: fraction of positions that are kept, float32 [].
    modality_totals: by term, the totals by modality, float32 [2]; {} without
      images.
    teacher_totals: by term, the totals by teacher, float32 [n]; {} if each has
      all targets.
  """

  weights: dict[str, Array]
  totals: dict[str, Array]
  values: dict[str, dict[str, Array]]
  fraction: Array
  modality_totals: dict[str, Array]
  teacher_totals: dict[str, Array] = struct.field(default_factory=dict)


Loss = terms_lib.LogitsLoss | terms_lib.LayerLoss | terms_lib.SpanLoss


def with_teacher(batch: types.Batch) -> Array | None:
  """Returns whether the teacher has a position, bool [B, L]; None for all."""
  if batch.teacher is None or batch.teacher.indices is None:
    return None
  return batch.teacher.indices >= 0


def counted_weights(
  loss: Loss, weights: Array, parts: Array, with_teacher: Array | None = None
) -> Array:
  """Returns the weights of targets that count for a term, 0 elsewhere.

  Args:
    loss: loss of the term.
    weights: float32 [...], weights of targets.
    parts: int32 [...], parts of targets.
    with_teacher: bool [...], see the function of this name; None for all.
  """
  if with_teacher is not None and loss.needs_teacher:
    weights = jnp.where(with_teacher, weights, 0.0)
  wanted = terms_lib.PARTS[loss.part]
  if wanted is not None:
    return jnp.where(parts == wanted, weights, 0.0)
  if loss.reads_labels:
    return jnp.where(parts == types.SAMPLED, 0.0, weights)
  return weights


def weights_of(loss: Loss, batch: types.Batch) -> Array:
  """Returns the weights of a batch's positions that count for a term.

  Weights of spans are at their last positions.
  """
  if isinstance(loss, terms_lib.SpanLoss):
    counted = counted_weights(loss, batch.weights, batch.parts)
    return spans.weights(counted, batch.teacher.student_spans)
  if loss.part != terms_lib.IMAGE:
    of_targets = batch.weights, batch.parts, with_teacher(batch)
    return counted_weights(loss, *of_targets)
  if batch.images is None:
    return jnp.zeros_like(batch.weights)
  return (batch.images.index >= 0).astype(jnp.float32)


def make(
  terms: Sequence[terms_lib.Term],
  fraction: schedules.Schedule,
  batch: types.Batch,
  step: Array,
) -> StepScalars:
  """Evaluates schedules and sums target weights for a whole batch.

  Args:
    terms: all terms of the objective.
    fraction: schedule of the fraction of positions that are kept.
    batch: all rows of the step.
    step: number of updates applied so far.
  """
  number = lambda schedule: jnp.asarray(schedule(step), jnp.float32)
  counted = {term.key: weights_of(term.loss, batch) for term in terms}
  images = modalities.with_images(batch)
  return StepScalars(
    fraction=number(fraction),
    weights={term.key: number(term.weight) for term in terms},
    totals={key: jnp.sum(weights) for key, weights in counted.items()},
    modality_totals=(
      {}
      if images is None
      else {k: modalities.sums(x, images) for k, x in counted.items()}
    ),
    teacher_totals=(
      {}
      if batch.teacher_weights is None
      else {
        k: teacher_sums.of(x, batch.teacher_weights) for k, x in counted.items()
      }
    ),
    values={
      term.key: {k: number(v) for k, v in term.loss.values.items()}
      for term in terms
    },
  )


def scales(settings: StepScalars) -> dict[str, Array]:
  """Returns weight / total of each term; 0 if no target counts for it."""
  return {
    key: jnp.where(total > 0, settings.weights[key] / total, 0.0)
    for key, total in settings.totals.items()
  }


def scheduled(
  terms: Sequence[terms_lib.Term],
  fraction: schedules.Schedule,
  settings: StepScalars,
) -> dict[str, Array]:
  """Returns the values of schedules for metrics, without constants."""
  scalars = {}
  for term in terms:
    if schedules.changes(term.weight):
      scalars[f'weight/{term.key}'] = settings.weights[term.key]
    for name, schedule in term.loss.values.items():
      if schedules.changes(schedule):
        scalars[f'{name}/{term.key}'] = settings.values[term.key][name]
  if schedules.changes(fraction):
    scalars['positions/fraction'] = settings.fraction
  return scalars
