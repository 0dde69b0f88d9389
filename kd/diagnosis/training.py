"""Diagnoses of training: learning rate, temperature, overfitting."""

from collections.abc import Mapping
import statistics

from kd.diagnosis import comparison
from kd.diagnosis import findings
from kd.diagnosis import run_record
from kd.diagnosis import stability
from kd.evaluation import measures

HIGH, LOW = (
  'a learning rate that is too high',
  'a learning rate that is too low',
)
OVERFITTING, TEMPERATURE = 'overfitting', 'the temperature'
_FEWEST = 6  # windows; the first and last thirds are averaged
_GIVEN_BACK = 0.3  # share of the loss's decrease
_FLAT = 0.02  # share of the loss
_MOVED = 0.005  # share of the parameters' norm
# The root mean square of their updates is at most the learning rate.
_BOUNDED = ('adamw', 'lion', 'muon')
_SHARP, _SOFT = 0.5, 4.0  # range of usual temperatures
_FELL, _FOLLOWED = 0.5, 0.1  # decrease of the training divergence, of the KL


def _loss(record):
  """Returns the loss by window, and the means of its first and last third.

  None if there are too few windows, or if a weight or a temperature follows a
  schedule, which changes the loss.
  """
  losses = record.values('train/loss')
  numbers = (
    spec.get(field, 1.0)
    for spec in record.get('losses', {}).values()
    for field in ('weight', 'temperature')
  )
  if len(losses) < _FEWEST or any(isinstance(x, Mapping) for x in numbers):
    return None
  third = len(losses) // 3
  return (
    losses,
    statistics.fmean(losses[:third]),
    statistics.fmean(losses[-third:]),
  )


@findings.DIAGNOSES.register(HIGH)
def too_high(record: run_record.RunRecord) -> findings.Finding | None:
  """The loss rose again by 30 % of its decrease, or above its first value."""
  loss = _loss(record)
  if loss is None:
    return None
  losses, _, last = loss
  first, lowest = losses[0], min(losses)
  if last - lowest <= _GIVEN_BACK * max(first - lowest, 0.0) or (
    last - lowest <= _FLAT * first
  ):
    return None
  rates = record.values('train/lr')
  peak = f', with a rate of up to {max(rates):.2g}' if rates else ''
  return findings.Finding(
    f'the training loss began at {first:.3g}, was {lowest:.3g} at its lowest '
    f'and {last:.3g} at the end{peak}',
    'a lower optimizer.lr.peak (a third), a longer warmup, or a lower '
    'optimizer.clip_norm',
    0.8,
    hides=(OVERFITTING, stability.SPIKES),
  )


@findings.DIAGNOSES.register(LOW)
def too_low(record: run_record.RunRecord) -> findings.Finding | None:
  """The loss hardly fell; updates change parameters by at most 0.5 %."""
  loss = _loss(record)
  count = record.run.get('parameters', {}).get('trained')
  norms = record.values('train/param_norm')
  rates = [line.get('train/lr', 0.0) for line in record.train]
  if loss is None or not count or not norms or not any(rates):
    return None
  _, first, last = loss
  if record.get('optimizer.name') not in _BOUNDED or last < (1 - _FLAT) * first:
    return None
  way = sum(r * n for r, n in zip(rates, record.window_steps, strict=True))
  moved = way * count**0.5 / max(norms[0], 1e-30)
  if moved > _MOVED:
    return None
  return findings.Finding(
    f'the training loss went from {first:.3g} to {last:.3g}; all updates '
    f'together can change the parameters by {moved:.2%} of their norm at most',
    f'raise optimizer.lr.peak, which is {max(rates):.2g} at most in this run, '
    'or train longer',
    0.8,
  )


@findings.DIAGNOSES.register(OVERFITTING)
def overfits(record: run_record.RunRecord) -> findings.Finding | None:
  """Held-out NLL rose after its best value while the training loss fell."""
  name, losses = record.first_set, record.values('train/loss')
  key = f'eval/{name}/{measures.NLL}'
  levels = {
    step: result.metrics[key]
    for step, result in record.evaluations.items()
    if key in result.metrics
  }
  if len(levels) < 3 or not losses:
    return None
  best, last = min(levels, key=levels.get), max(levels)
  worse = comparison.increase(
    record.evaluations[best], record.evaluations[last], name
  )
  before = [x['train/loss'] for x in record.train if x['step'] <= best]
  if worse is None or (before and losses[-1] >= before[-1]):
    return None
  epochs = max(
    (x.get('epochs', 0.0) for x in record.run.get('mixture', {}).values()),
    default=0.0,
  )
  return findings.Finding(
    f'on {name} the student had {levels[best]:.3f} nats per token at step '
    f'{best} and {levels[last]:.3f} at step {last}, '
    f'{comparison.interval(worse)} more, while its training loss fell; the run '
    f'is {epochs:.1f} epochs',
    "the best checkpoint (export.checkpoint='best'), evaluation.stop, more "
    'data, fewer steps, or student.layer_dropout',
    0.7,
  )


@findings.DIAGNOSES.register(TEMPERATURE)
def temperature(record: run_record.RunRecord) -> findings.Finding | None:
  """The temperature is unusual: its loss fell, but held-out KL did not."""
  name = record.first_set
  key = f'eval/{name}/{measures.KL}'
  first, last = record.evaluations.get(0), record.last
  if first is None or last is None or key not in last.metrics:
    return None
  for term, spec in record.get('losses', {}).items():
    value = spec.get('temperature')
    losses = record.values(f'train/loss/{term}')
    if not isinstance(value, int | float) or len(losses) < 2:
      continue
    before, after = first.metrics[key], last.metrics[key]
    if (
      not _SHARP <= value <= _SOFT
      and losses[-1] < (1 - _FELL) * losses[0]
      and after > (1 - _FOLLOWED) * before
    ):
      return findings.Finding(
        f'losses.{term} has temperature {value:g}: its loss fell from '
        f'{losses[0]:.3g} to {losses[-1]:.3g}, and the KL to the teacher on '
        f'{name}, at temperature 1, went from {before:.3f} to {after:.3f}',
        f'--config.losses.{term}.temperature=1, or up to 2; or add a term at '
        'temperature 1',
        0.8,
        hides=(OVERFITTING,),
      )
  return None
