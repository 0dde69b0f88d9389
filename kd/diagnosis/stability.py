"""Diagnoses of stability: gradient spikes and non-finite values."""

import statistics

from kd.core import errors
from kd.diagnosis import findings
from kd.diagnosis import run_record
from kd.train import nonfinite_origin

NOT_FINITE, SPIKES = 'values that are not finite', 'spikes of the gradient'
_TIMES = 10.0  # multiple of the median of the neighboring windows
_NEIGHBORS = 3  # windows on each side
_FEWEST = 5  # windows
_LONGEST = 300  # characters of a message


@findings.DIAGNOSES.register(NOT_FINITE)
def not_finite(record: run_record.RunRecord) -> findings.Finding | None:
  """Values were NaN or infinite: the run ended, or it skipped such steps."""
  skipped = sum(record.values('train/nonfinite'))
  failed = record.exit.get('code') == errors.NonFiniteError.exit_code
  if not failed and not skipped:
    return None
  if not failed:
    return findings.Finding(
      f'{skipped:,.0f} steps were skipped because they were not finite',
      "nonfinite='stop' ends the run at the first one, with a message that "
      'names the layer where it began: follow its advice',
      0.6,
      hides=(SPIKES,),
    )
  evidence = str(record.exit['error'])[:_LONGEST]
  remedy = 'see the message'
  if record.origin:
    origin = nonfinite_origin.Origin(**record.origin)
    evidence = f'{origin.text} ({evidence})'
    remedy = _remedy(origin)
  elif 'the targets of' in evidence:
    remedy = "repair the teacher's weights, or compute it in float32"
  return findings.Finding(evidence, remedy, 1.0, hides=(SPIKES,))


def _remedy(origin: nonfinite_origin.Origin) -> str:
  if origin.rows:
    return 'look at the weights that the data gives to messages'
  if origin.parameters:
    return (
      "repair student.init if it is the run's first step; else train in a new "
      'workdir from an earlier checkpoint with a lower optimizer.lr.peak'
    )
  if origin.layers:
    return (
      'train in a new workdir with a lower optimizer.lr.peak; if it is the '
      "run's first step, look at the weights of that layer in student.init"
    )
  return (
    'look at the weights and temperatures of losses; or train in a new workdir '
    'with a lower optimizer.lr.peak'
  )


@findings.DIAGNOSES.register(SPIKES)
def spikes(record: run_record.RunRecord) -> findings.Finding | None:
  """At least two gradients had over 10 times the norm of nearby steps."""
  lines = [x for x in record.train if 'train/grad_norm_max' in x]
  if len(lines) < _FEWEST:
    return None
  means = [x['train/grad_norm'] for x in lines]
  high = []
  for i, line in enumerate(lines):
    around = means[max(0, i - _NEIGHBORS) : i]
    around += means[i + 1 : i + 1 + _NEIGHBORS]
    ratio = line['train/grad_norm_max'] / max(statistics.median(around), 1e-30)
    # The first steps always have larger gradients.
    if i and ratio > _TIMES:
      high.append((ratio, line['step']))
  if len(high) < 2:
    return None
  ratio, step = max(high)
  return findings.Finding(
    f'in {len(high)} of {len(lines)} windows a gradient had more than '
    f'{_TIMES:.0f} times the norm of its neighbors, {ratio:,.0f} times before '
    f'step {step}',
    'a lower optimizer.clip_norm, a longer warmup, or a lower '
    'optimizer.lr.peak; look at the rows of these steps (--mode=data)',
    0.5,
  )
