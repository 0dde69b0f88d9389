"""The fields of a config's `rollout`: what is legal, what they amount to."""

import math

import jax
import ml_collections

from configs import base
from kd.core import config as config_lib
from kd.core import errors
from kd.core import schedules
from kd.losses import objective as objective_lib
from kd.models import gemma3
from kd.sampling import engine
from kd.sampling import fields

_DATA = ('answer', 'rationale')
_LEAST = dict(every=1, buffer=0, batch_size=1)


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses what is illegal in a config's `rollout`, or beside it.

  Raises:
    ConfigError: names the first field.
  """
  rollout, known = config.rollout, base.rollout()
  # The share may be a schedule, which is checked where it is built.
  plain = {k: known.share if k == 'share' else v for k, v in rollout.items()}
  config_lib.check_fields(plain, known, 'rollout.')
  fields.check(rollout, 'rollout')
  for name, least in _LEAST.items():
    if rollout[name] < least:
      raise errors.ConfigError(
        f'rollout.{name}', f'found {rollout[name]}', legal=f'{least} or more'
      )
  lowest, highest = schedules.extremes(share(config), config.steps)
  if not (lowest >= 0 and 0 < highest <= 1):
    bad = lowest if lowest < 0 else highest
    raise errors.ConfigError(
      'rollout.share', f'found {bad:g}', legal='0 to 1, and not 0 throughout'
    )
  if (rollout.every > 1) != (rollout.buffer > 0):
    raise errors.ConfigError(
      'rollout.buffer',
      f'found {rollout.buffer}, and rollout.every is {rollout.every}',
      legal='0 where every step samples, else the rows that are kept for the '
      'steps that do not',
    )
  if config.teacher.source == 'rollout':
    _check_data(config)
    _check_buffer(config, highest)


def share(config: ml_collections.ConfigDict) -> schedules.Schedule:
  """The share of a step's rows whose answers are the student's."""
  value = config.rollout.share
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  return schedules.build(value, 'rollout.share', config.steps)


def _check_data(config):
  if config.data.pack:
    raise errors.ConfigError(
      'data.pack',
      "found True with teacher.source 'rollout', where a row is a prompt and "
      'its answer',
      legal='False',
    )
  if config.rollout.max_new_tokens >= config.data.length:
    raise errors.ConfigError(
      'rollout.max_new_tokens',
      f'found {config.rollout.max_new_tokens}, which leaves no room for a '
      'prompt in a row',
      legal=f'less than data.length, {config.data.length}',
    )


def _check_buffer(config, highest):
  needed = math.ceil(highest * config.data.batch_size)
  if config.rollout.every > 1 and config.rollout.buffer < needed:
    raise errors.ConfigError(
      'rollout.buffer',
      f'found {config.rollout.buffer}, and a step wants {needed} rows of it',
      legal=f'{needed} or more: rollout.share x data.batch_size',
    )


def check_run(
  config: ml_collections.ConfigDict,
  mesh: jax.sharding.Mesh,
  model: gemma3.Gemma3,
  objective: objective_lib.Objective,
) -> None:
  """Refuses rollouts that do not fit the rest of a run.

  Args:
    config: the run's, found right by `check`.
    mesh: the student's devices.
    model: the student.
    objective: what is made small.

  Raises:
    ConfigError: names the field.
  """
  if config.teacher.source != 'rollout':
    for term in objective.terms:
      if term.loss.part == 'sampled':
        raise errors.ConfigError(
          f'losses.{term.key}.part',
          "found 'sampled', and the student samples nothing",
          legal="all, answer, rationale, or teacher.source='rollout'",
        )
    return
  if not objective.needs_teacher:
    raise errors.ConfigError(
      'teacher.source',
      "found 'rollout', and no term of losses asks a teacher",
      legal="'none', or a term of next-token distributions",
    )
  lowest, _ = schedules.extremes(share(config), config.steps)
  for term in objective.terms:
    of_data = term.loss.reads_labels or term.loss.part in _DATA
    if lowest == 1 and of_data:
      raise errors.ConfigError(
        f'losses.{term.key}',
        "counts the data's answers, and rollout.share leaves no row of them",
        legal="a share below 1, or a divergence with part 'all' or 'sampled'",
      )
  fields.check_devices(config.rollout.batch_size, mesh, 'rollout.batch_size')
  engine.check_room(
    model, config.rollout.max_new_tokens, 'rollout.max_new_tokens'
  )
