"""Schedules: numbers that change with the optimizer's updates.

Learning rates, and the weights, temperatures and shares of losses.
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
  """A schedule that rises or falls steadily between a few updates.

  Attributes:
    function: its value by update, which a compiled step computes.
    plain: the same in Python's floats. A config is checked with it before
      devices may be touched: jax.distributed must be initialized first.
    turns: the updates at which it may begin to rise or fall.
  """

  function: Schedule
  plain: Callable[[int], float]
  turns: tuple[int, ...]

  def __call__(self, step: int) -> float:
    return self.function(step)


def _warm_up(peak, warmup_steps, then, plain_then):
  """Rises linearly from 0 to `peak`, reached at update `warmup_steps`."""
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
  """Half a cosine (arXiv 1608.03983) from `peak` to `final` at the last."""
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
  """Returns a straight line from `peak` to `final` at the last update."""
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
  """`peak` from the end of the warm-up on."""
  del steps
  _check(peak=peak, warmup_steps=warmup_steps)
  return _warm_up(
    peak, warmup_steps, optax.constant_schedule(peak), lambda count: peak
  )


@SCHEDULES.register('inverse_sqrt')
def inverse_sqrt(steps: int, *, peak: float, warmup_steps: int) -> Schedule:
  """`peak` x sqrt(warmup_steps / update) after the warm-up (1706.03762)."""
  del steps
  _check(peak=peak, warmup_steps=warmup_steps)
  start = max(warmup_steps, 1)

  def decay(count):
    # Also evaluated, and thrown away, during the warm-up: count < 0 there.
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
  """`begin` up to first_step, a straight line, `end` from last_step on."""
  del steps
  straight = lambda x: x
  return _ramp(begin, end, first_step, last_step, straight, straight)


@SCHEDULES.register('cosine')
def cosine(
  steps: int, *, begin: float, end: float, first_step: int, last_step: int
) -> Schedule:
  """As linear, along half a cosine."""
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
  """Returns a number of the config, or the name of its schedule."""
  return f'{spec:g}' if isinstance(spec, int | float) else spec['name']


def build(value: Any, path: str, steps: int) -> Schedule:
  """Builds a schedule from its spec, or a constant one from a number.

  Args:
    value: a number, or a mapping with `name` and arguments.
    path: its config path.
    steps: updates of the whole run.

  Raises:
    ConfigError: it is neither, or an argument is not legal.
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
  """Returns whether it was built from a schedule's spec, not from a number."""
  return not isinstance(schedule, _Constant)


def extremes(schedule: Schedule, steps: int) -> tuple[float, float]:
  """Returns its smallest and largest value over updates 0 to `steps`.

  Uses no device.
  """
  if isinstance(schedule, _Constant):
    return schedule.value, schedule.value
  points = {0, steps, *(turn for turn in schedule.turns if turn < steps)}
  # Rounded as a step computes them: a bound of 1 is met by 0.99999999.
  values = [float(np.float32(schedule.plain(step))) for step in points]
  return min(values), max(values)
