"""Supports teachers that divide the examples of a run among them."""

from collections.abc import Sequence

import ml_collections

from kd.config import teacher_sections
from kd.core import errors
from kd.input_pipeline import prepare
from kd.input_pipeline import routing
from kd.losses import objective as objective_lib

Config = ml_collections.ConfigDict | ml_collections.FrozenConfigDict


def routes(config: Config) -> tuple[routing.Route, ...]:
  """Returns the routes of examples, in the order of the run's teachers.

  Returns:
    One route for each teacher; () if each teaches all examples.
  """
  specs = teacher_sections.of(config)
  if not any(spec.tasks or spec.field_values for spec in specs.values()):
    return ()
  return tuple(
    routing.Route(
      path, spec.weight, tuple(spec.tasks), tuple(spec.field_values)
    )
    for path, spec in specs.items()
  )


def names(config: Config) -> tuple[str, ...]:
  """Returns the teachers' names in metrics; () if each teaches all examples."""
  return tuple(route.name for route in routes(config))


def lines(config: Config) -> list[str]:
  """Describes the examples of each teacher; [] if each teaches all."""
  described = []
  for route in routes(config):
    parts = []
    if route.tasks:
      parts.append(f'of {", ".join(route.tasks)}')
    if route.values:
      parts.append(f'whose {config.teacher.field} is {", ".join(route.values)}')
    which = ' '.join(parts) or 'all'
    described.append(f'{route.path} teaches the examples: {which}')
  return described


def router(
  config: Config, prepared: Sequence[prepare.Prepared]
) -> routing.Router | None:
  """Returns the object that adds the teachers' weights to batches.

  Returns:
    The router; None if each teacher teaches all examples.

  Raises:
    ConfigError: an example has no teacher.
  """
  divided = routes(config)
  if not divided:
    return None
  return routing.Router(prepared, divided, config.teacher.field)


def check_set(
  config: Config, name: str, prepared: Sequence[prepare.Prepared]
) -> None:
  """Raises ConfigError unless each example of a held-out set has a teacher.

  Args:
    config: the run's config.
    name: name of the set.
    prepared: rows of the set.
  """
  try:
    router(config, prepared)
  except errors.ConfigError as e:
    raise e.at(f'evaluation.sets.{name}.mixture') from None


def check(config: Config, objective: objective_lib.Objective) -> None:
  """Raises ConfigError for terms whose teacher does not teach all examples.

  Args:
    config: the run's config.
    objective: the training objective.

  Raises:
    ConfigError: a term compares layers with such a teacher.
  """
  first = config.teacher
  if objective.layer_terms and (first.tasks or first.field_values):
    raise errors.ConfigError(
      f'losses.{objective.layer_terms[0].key}',
      'compares layers with those of `teacher`, which does not teach all '
      'examples',
      legal='a term of next-token distributions, or teacher.tasks=() and '
      'teacher.field_values=()',
    )
