"""Schedules of numbers that depend on the step.

They are used for learning rates and for weights, temperatures and fractions of
losses.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from kd.core import errors
from kd.core import registry

Schedule = Callable[[int], float]

SCHEDULES = registry.Registry('schedule')


def _check(**values):
  for key, value in values.items():
    if not value >= 0:
      raise errors.ConfigError(key, f'found {value}', legal='0 or more')


@dataclasses.dataclass(frozen=True)
class _Piecewise:
  """A schedule that is monotonic between a few steps.

  Attributes:
    function: value at a step, computed in a compiled program.
    plain: the same in Python floats. Configs are checked with it, since devices
      must not be used before jax.distributed is initialized.
    breakpoints: steps at which it may begin to rise or fall.
  """

  function: Schedule
  plain: Callable[[int], float]
  breakpoints: tuple[int, ...]

  def __call__(self, step: int) -> float:
    return self.function(step)


def _warm_up(peak, warmup_steps, then, plain_then):
  """Rises linearly from 0 to `peak` over `warmup_steps`, then runs `then`."""
  rise = optax.linear_schedule(0.0, peak, max(warmup_steps, 1))
  function = optax.join_schedules([rise, then], [warmup_steps])

  def plain(step):
    if step < warmup_steps:
      return peak * step / warmup_steps
    return plain_then(step - warmup_steps)

  return _Piecewise(function, plain, (warmup_steps,))


def _half_cosine(x):
  return (1 - math.cos(math.pi * x)) / 2


def _decay_steps(steps, warmup_steps):
  if warmup_steps >= steps and steps > 0:
    raise errors.ConfigError(
      'warmup_steps',
      f'found {warmup_steps}, and the run has {steps} steps',
      legal=f'fewer than {steps}',
    )
  return steps - warmup_steps


@SCHEDULES.register('warmup_cosine')
def warmup_cosine(
  steps: int, *, peak: float, warmup_steps: int, final: float
) -> Schedule:
  """Returns half a cosine (arXiv 1608.03983) from `peak` to `final`."""
  _check(peak=peak, warmup_steps=warmup_steps, final=final)
  decay = _decay_steps(steps, warmup_steps)
  share = final / peak if peak else 0.0
  return _warm_up(
    peak,
    warmup_steps,
    optax.cosine_decay_schedule(peak, decay, share),
    lambda count: (
      peak + (share * peak - peak) * _half_cosine(min(count / decay, 1))
    ),
  )


@SCHEDULES.register('warmup_linear')
def warmup_linear(
  steps: int, *, peak: float, warmup_steps: int, final: float
) -> Schedule:
  """Returns a straight line from `peak` to `final` at the last step."""
  _check(peak=peak, warmup_steps=warmup_steps, final=final)
  decay = _decay_steps(steps, warmup_steps)
  return _warm_up(
    peak,
    warmup_steps,
    optax.linear_schedule(peak, final, decay),
    lambda count: peak + (final - peak) * min(count / decay, 1),
  )


@SCHEDULES.register('constant')
def constant(steps: int, *, peak: float, warmup_steps: int) -> Schedule:
  """Returns a warm-up followed by a constant `peak`."""
  del steps
  _check(peak=peak, warmup_steps=warmup_steps)
  return _warm_up(
    peak, warmup_steps, optax.constant_schedule(peak), lambda count: peak
  )


@SCHEDULES.register('inverse_sqrt')
def inverse_sqrt(steps: int, *, peak: float, warmup_steps: int) -> Schedule:
  """Returns `peak` x sqrt(warmup_steps / step) after warm-up (1706.03762)."""
  del steps
  _check(peak=peak, warmup_steps=warmup_steps)
  start = max(warmup_steps, 1)

  def decay(count):
    # Also evaluated, with count < 0, and discarded during the warm-up.
    return peak * (start / (jnp.maximum(count, 0) + start)) ** 0.5

  plain = lambda count: peak * (start / (count + start)) ** 0.5
  return _warm_up(peak, warmup_steps, decay, plain)


def _ramp(begin, end, first_step, last_step, shape, plain_shape):
  if not 0 <= first_step < last_step:
    raise errors.ConfigError(
      'last_step',
      f'found {last_step}, first_step {first_step}',
      legal='0 <= first_step < last_step',
    )
  span = last_step - first_step
  function = lambda step: (
    begin + (end - begin) * shape(jnp.clip((step - first_step) / span, 0, 1))
  )
  plain = lambda step: (
    begin
    + (end - begin)
    * plain_shape(min(max((step - first_step) / span, 0.0), 1.0))
  )
  return _Piecewise(function, plain, (first_step, last_step))


@SCHEDULES.register('linear')
def linear(
  steps: int, *, begin: float, end: float, first_step: int, last_step: int
) -> Schedule:
  """Returns a line from `begin` at first_step to `end` at last_step."""
  del steps
  straight = lambda x: x
  return _ramp(begin, end, first_step, last_step, straight, straight)


@SCHEDULES.register('cosine')
def cosine(
  steps: int, *, begin: float, end: float, first_step: int, last_step: int
) -> Schedule:
  """Returns half a cosine from `begin` at first_step to `end` at last_step."""
  del steps
  return _ramp(
    begin,
    end,
    first_step,
    last_step,
    lambda x: (1 - jnp.cos(jnp.pi * x)) / 2,
    _half_cosine,
  )


def text(spec: float | Mapping[str, Any]) -> str:
  """Formats a number of the config, or returns the name of its schedule."""
  return f'{spec:g}' if isinstance(spec, int | float) else spec['name']


def build(value: Any, path: str, steps: int) -> Schedule:
  """Builds a schedule from its spec, or a constant one from a number.

  Args:
    value: a number, or a mapping with `name` and arguments.
    path: config path of the value.
    steps: number of steps of the whole run.

  Raises:
    ConfigError: the value is neither, or an argument is illegal.
  """
  if isinstance(value, Mapping):
    if 'name' not in value:
      raise errors.ConfigError(f'{path}.name', 'missing')
    return SCHEDULES.build(value, path, steps)
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise errors.ConfigError(
      path,
      f'found {value!r} of type {type(value).__name__}',
      legal=f'a number, or a schedule: {", ".join(SCHEDULES.names())}',
    )
  return _Constant(float(value))


@dataclasses.dataclass(frozen=True)
class _Constant:
  value: float

  def __call__(self, step: int) -> float:
    del step
    return self.value


def changes(schedule: Schedule) -> bool:
  """Returns whether a schedule was built from a spec, not from a number."""
  return not isinstance(schedule, _Constant)


def extremes(schedule: Schedule, steps: int) -> tuple[float, float]:
  """Returns the smallest and largest value over steps 0 to `steps`.

  This uses no device.
  """
  if isinstance(schedule, _Constant):
    return schedule.value, schedule.value
  points = {0, steps, *(x for x in schedule.breakpoints if x < steps)}
  # Rounds to float32 as a step does, so 0.99999999 satisfies a bound of 1.
  values = [float(np.float32(schedule.plain(step))) for step in points]
  return min(values), max(values)
