"""Learning rates by optimizer update."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from kd.core import errors
from kd.core import registry

Schedule = Callable[[int], float]

SCHEDULES = registry.Registry('schedule')


def _check(**values):
  for key, value in values.items():
    if not value >= 0:
      raise errors.ConfigError(key, f'found {value}', legal='0 or more')


def _warm_up(peak, warmup_steps, then):
  """Rises linearly from 0 to `peak`, reached at update `warmup_steps`."""
  rise = optax.linear_schedule(0.0, peak, max(warmup_steps, 1))
  return optax.join_schedules([rise, then], [warmup_steps])


def _decay_steps(steps, warmup_steps):
  if warmup_steps >= steps and steps > 0:
    raise errors.ConfigError(
      'warmup_steps',
      f'found {warmup_steps}',
      legal=f'below steps, {steps}',
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
    peak, warmup_steps, optax.cosine_decay_schedule(peak, decay, share)
  )


@SCHEDULES.register('warmup_linear')
def warmup_linear(
  steps: int, *, peak: float, warmup_steps: int, final: float
) -> Schedule:
  """A straight line from `peak` to `final` at the last update."""
  _check(peak=peak, warmup_steps=warmup_steps, final=final)
  decay = _decay_steps(steps, warmup_steps)
  return _warm_up(peak, warmup_steps, optax.linear_schedule(peak, final, decay))


@SCHEDULES.register('constant')
def constant(steps: int, *, peak: float, warmup_steps: int) -> Schedule:
  """`peak` from the end of the warm-up on."""
  del steps
  _check(peak=peak, warmup_steps=warmup_steps)
  return _warm_up(peak, warmup_steps, optax.constant_schedule(peak))


@SCHEDULES.register('inverse_sqrt')
def inverse_sqrt(steps: int, *, peak: float, warmup_steps: int) -> Schedule:
  """`peak` x sqrt(warmup_steps / update) after the warm-up (1706.03762)."""
  del steps
  _check(peak=peak, warmup_steps=warmup_steps)
  start = max(warmup_steps, 1)

  def decay(count):
    # Also evaluated, and thrown away, during the warm-up: count < 0 there.
    return peak * (start / (jnp.maximum(count, 0) + start)) ** 0.5

  return _warm_up(peak, warmup_steps, decay)
