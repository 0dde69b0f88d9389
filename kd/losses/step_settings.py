"""What a step's objective is computed with: weights, totals, arguments."""

from collections.abc import Sequence

from flax import struct
import jax.numpy as jnp

from kd.core import schedules
from kd.core import types
from kd.losses import terms as terms_lib

Array = types.Array


@struct.dataclass
class StepSettings:
  """What a step's objective is computed with, by a term's key.

  Attributes:
    weights: float32 [], the term's weight at this step.
    totals: float32 [], the weight of the targets that count for it, over the
      whole batch: all micro-batches and devices.
    values: the term's scalar arguments at this step.
    fraction: float32 [], of the positions that are kept.
  """

  weights: dict[str, Array]
  totals: dict[str, Array]
  values: dict[str, dict[str, Array]]
  fraction: Array


def counted_weights(
  loss: terms_lib.LogitsLoss | terms_lib.LayerLoss, weights: Array, parts: Array
) -> Array:
  """The target weights that count for a term, zeros elsewhere."""
  wanted = terms_lib.PARTS[loss.part]
  if wanted is not None:
    return jnp.where(parts == wanted, weights, 0.0)
  if loss.reads_labels:
    return jnp.where(parts == types.SAMPLED, 0.0, weights)
  return weights


def make(
  terms: Sequence[terms_lib.Term],
  fraction: schedules.Schedule,
  batch: types.Batch,
  step: Array,
) -> StepSettings:
  """Evaluates schedules, and sums target weights, for a whole batch.

  Args:
    terms: of the objective.
    fraction: of the positions that are kept, by step.
    batch: all rows of the step.
    step: updates applied so far.
  """
  number = lambda schedule: jnp.asarray(schedule(step), jnp.float32)
  return StepSettings(
    fraction=number(fraction),
    weights={term.key: number(term.weight) for term in terms},
    totals={
      term.key: jnp.sum(counted_weights(term.loss, batch.weights, batch.parts))
      for term in terms
    },
    values={
      term.key: {k: number(v) for k, v in term.loss.values.items()}
      for term in terms
    },
  )


def scales(settings: StepSettings) -> dict[str, Array]:
  """What each term's sum is multiplied by; 0 where no target counts for it."""
  return {
    key: jnp.where(total > 0, settings.weights[key] / total, 0.0)
    for key, total in settings.totals.items()
  }


def scheduled(
  terms: Sequence[terms_lib.Term],
  fraction: schedules.Schedule,
  settings: StepSettings,
) -> dict[str, Array]:
  """What a term's or the selection's schedules gave, for the metrics.

  Only of what the config made a schedule of: constants are in the config.
  """
  found = {}
  for term in terms:
    if schedules.changes(term.weight):
      found[f'weight/{term.key}'] = settings.weights[term.key]
    for name, schedule in term.loss.values.items():
      if schedules.changes(schedule):
        found[f'{name}/{term.key}'] = settings.values[term.key][name]
  if schedules.changes(fraction):
    found['positions/fraction'] = settings.fraction
  return found
