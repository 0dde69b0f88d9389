"""Averages metrics between writes; limits consecutive non-finite steps."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from kd.core import errors
from kd.losses import modalities
from kd.metrics import means
from kd.train import update

# The scalar whose maximum, NAME_max, is written in addition to its mean.
_WITH_MAXIMUM = 'grad_norm'


@dataclasses.dataclass(frozen=True)
class StepWork:
  """The amount of computation per training step.

  Attributes:
    tokens: number of tokens per batch.
    flops: FLOPs of the models on all devices, excluding rematerialization and
      sampling.
    peak_flops: peak FLOP/s of all devices together; None if unknown.
  """

  tokens: int
  flops: float
  peak_flops: float | None

  def with_achieved(self, times: Mapping[str, float]) -> dict[str, float]:
    """Adds the achieved FLOP/s and MFU to StepTimer's metrics."""
    metrics = dict(times)
    if times:
      speed = self.flops / times['perf/step_time_s']
      metrics['perf/tflops_per_s'] = speed / 1e12
      if self.peak_flops is not None:
        metrics['perf/mfu'] = speed / self.peak_flops
    return metrics


class MetricsWindow:
  """Means over the steps since the last write; saved in checkpoints."""

  def __init__(
    self,
    state: Mapping[str, Any],
    allowed: int,
    teachers: Sequence[str],
    advise: Callable[[Sequence[str], int], str],
    say: Callable[[str], None],
  ):
    """Initializes the window from a saved state.

    Args:
      state: result of `state` in an earlier run; {} for the first.
      allowed: maximum number of consecutive nonfinite steps.
      teachers: display name of each teacher.
      advise: function from the names of nonfinite teachers and the number of
        updates when the parameters last changed, to advice for the user.
      say: function called with a line for each nonfinite step.
    """
    self._allowed, self._teachers = allowed, teachers
    self._advise, self._say = advise, say
    self._in_a_row = state['in_a_row'] if state else 0
    self._nonfinite = state['nonfinite'] if state else 0
    self._means = means.Means(state['means'] if state else {})
    self._largest = state.get('largest', {})

  def state(self) -> dict[str, Any]:
    """Returns the state as JSON values that round-trip exactly."""
    return {
      'means': self._means.state(),
      'largest': dict(self._largest),
      'nonfinite': self._nonfinite,
      'in_a_row': self._in_a_row,
    }

  def add(self, step: int, out: update.Output) -> None:
    """Adds a step's output; a nonfinite one is only counted.

    Raises:
      NonFiniteError: more consecutive steps are nonfinite than allowed.
    """
    out = jax.device_get(out)
    if not out.finite:
      self._skip(step, out)
      return
    self._in_a_row = 0
    for key, value in out.sums.items():
      self._means.add(f'loss/{key}', value, out.totals[key])
      self._means.add(f'target_weight/{key}', out.totals[key], 1.0)
    for key, values in out.modality_sums.items():
      by_modality = zip(values, out.modality_totals[key], strict=True)
      for name, both in zip(modalities.NAMES, by_modality, strict=True):
        self._means.add(f'modality/{name}/loss/{key}', *both)
    self._means.add('loss', out.loss * out.weight, out.weight)
    for name, value in out.scalars.items():
      self._means.add(name, value, 1.0)
    name, value = f'{_WITH_MAXIMUM}_max', float(out.scalars[_WITH_MAXIMUM])
    self._largest[name] = max(value, self._largest.get(name, value))
    self._means.add('target_weight', out.weight, 1.0)
    self._means.add('empty_batches', out.weight == 0, 1.0)

  def advice(self, step: int, teachers: Sequence[str]) -> str:
    """Returns advice for the user on nonfinite values.

    Args:
      step: number of updates applied or skipped, all of which were added.
      teachers: names of the nonfinite teachers, if any.
    """
    return self._advise(teachers, step - self._in_a_row)

  def _skip(self, step, out):
    names = zip(self._teachers, out.nonfinite, strict=True)
    teachers = [name for name, count in names if count]
    self._nonfinite += 1
    self._in_a_row += 1
    if teachers:
      line = (
        f'step {step}: the targets of {" and ".join(teachers)} are not finite'
      )
    else:
      bad = [k for k, v in sorted(out.sums.items()) if not np.isfinite(v)]
      what = ' and '.join(f'loss {k!r}' for k in bad) or 'the gradient'
      line = f'step {step}: {what} is not finite'
    if self._in_a_row > self._allowed:
      often = f', as in the {self._allowed} before it' if self._allowed else ''
      todo = self.advice(step, teachers)
      if not teachers and not self._allowed:
        todo += ', or skip such steps with --config.nonfinite=skip'
      raise errors.NonFiniteError(f'{line}{often}; {todo}', teachers)
    self._say(f'{line}: skipped, {self._in_a_row} in a row')

  def take(self) -> dict[str, float]:
    """Returns the metrics as train/NAME and starts a new window."""
    values = {
      **self._means.compute(),
      **self._largest,
      'nonfinite': float(self._nonfinite),
    }
    self._means, self._largest, self._nonfinite = means.Means({}), {}, 0
    return {f'train/{name}': value for name, value in values.items()}
