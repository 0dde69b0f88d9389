"""Rules between a config and its models, losses and problems."""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from kd.config import rules
from kd.core import errors
from kd.core import schedules
from kd.losses import divergences
from kd.losses import objective as objective_lib
from kd.models import gemma3
from kd.models import gemma3_config
from kd.reasoning import problems
from kd.sampling import engine
from kd.sampling import fields
from kd.teachers import methods

Config = ml_collections.ConfigDict
_OF_DATA = ('answer', 'rationale')


def check_length(
  config: Config, path: str, sizes: gemma3_config.Gemma3Config
) -> None:
  """Refuses rows that are longer than a model's context.

  Args:
    config: the run's.
    path: the model's, for the message.
    sizes: the model's.

  Raises:
    ConfigError: names data.length.
  """
  if config.data.length > sizes.context:
    raise errors.ConfigError(
      'data.length',
      f'found {config.data.length}, longer than the context of the {path}',
      legal=f'up to {sizes.context}',
    )


def check_search(search: Config) -> None:
  """Refuses a search that its problem cannot serve.

  Raises:
    ConfigError: names the first field.
  """
  problem = problems.SOURCES[search.problem].problem
  if search.shots > problem.most_examples:
    raise errors.ConfigError(
      'search.shots',
      f'found {search.shots}',
      legal=f'0 to {problem.most_examples}',
    )
  enumerated = search.proposals == 'enumerated'
  if enumerated and not problem.enumerable:
    raise errors.ConfigError(
      'search.proposals',
      f"found 'enumerated', and {search.problem} has no end of thoughts",
      legal="'sampled'",
    )
  if enumerated and search.evaluator == 'likelihood':
    raise errors.ConfigError(
      'search.evaluator',
      "found 'likelihood', and enumerated thoughts have none",
      legal="'exact', 'value' or 'vote'",
    )


def check_rollouts(
  config: Config,
  mesh: jax.sharding.Mesh,
  model: gemma3.Gemma3,
  objective: objective_lib.Objective,
) -> None:
  """Refuses rollouts that do not fit the rest of a run.

  Args:
    config: the run's.
    mesh: the student's devices.
    model: the student.
    objective: the training objective.

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
  share = rules.scheduled(config, 'rollout.share')
  lowest, _ = schedules.extremes(share, config.steps)
  for term in objective.terms:
    of_data = term.loss.reads_labels or term.loss.part in _OF_DATA
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


def check_sampled_targets(config: Config, method: Mapping[str, Any]) -> None:
  """Refuses losses that a cache of sampled ids cannot serve.

  Args:
    config: the run's.
    method: what the cache keeps, as cache.method.

  Raises:
    ConfigError: names the temperature or the name of a term.
  """
  kept = methods.METHODS.build(dict(method), 'cache.method')
  if not kept.draws:
    return
  for key, spec in config.losses.items():
    if spec.name not in divergences.DIVERGENCES.names():
      continue
    path, what = f'losses.{key}', f'a cache of method {kept.name!r}'
    if spec.temperature != 1:
      raise errors.ConfigError(
        f'{path}.temperature',
        f'found {_value(spec.temperature)}, and {what} holds ids that were '
        'sampled at temperature 1',
        legal="1.0, or cache.method 'top_k', 'nucleus' or 'hidden'",
      )
    arguments = divergences.DIVERGENCES.arguments(spec.name)
    divergence = divergences.DIVERGENCES.build(
      {'name': spec.name, **{k: spec[k] for k in arguments}}, path
    )
    if divergence.needs_whole_distribution:
      raise errors.ConfigError(
        f'{path}.name',
        f'{spec.name} needs the whole distribution, and {what} holds sampled '
        'ids',
        legal="another divergence, or cache.method 'top_k', 'nucleus' or "
        "'hidden'",
      )


def _value(number):
  """A number, or the name of its schedule."""
  return number if isinstance(number, int | float) else number['name']
