"""Rules between a config's `rollout` and its models, losses and devices."""

import jax
import ml_collections

from kd.config import rules
from kd.core import errors
from kd.core import schedules
from kd.losses import objective as objective_lib
from kd.models import gemma3
from kd.sampling import engine
from kd.sampling import fields

_DATA = ('answer', 'rationale')


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
  lowest, _ = schedules.extremes(
    rules.scheduled(config, 'rollout.share'), config.steps
  )
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
