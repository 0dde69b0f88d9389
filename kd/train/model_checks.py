"""Checks a config against its models and search problems."""

import ml_collections

from kd.core import errors
from kd.models import family
from kd.reasoning.trees import problems

Config = ml_collections.ConfigDict


def check_length(config: Config, path: str, sizes: family.Config) -> None:
  """Raises ConfigError if rows are longer than a model's context.

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
  """Raises ConfigError if a search asks for more than its problem offers.

  Raises:
    ConfigError: names the first field.
  """
  problem = problems.SOURCES[search.problem].problem
  if search.shots > problem.max_examples:
    raise errors.ConfigError(
      'search.shots',
      f'found {search.shots}',
      legal=f'0 to {problem.max_examples}',
    )
  enumerated = search.proposals == 'enumerated'
  if enumerated and not problem.enumerable:
    raise errors.ConfigError(
      'search.proposals',
      f"found 'enumerated', and {search.problem} has infinitely many thoughts",
      legal="'sampled'",
    )
  if enumerated and search.evaluator == 'likelihood':
    raise errors.ConfigError(
      'search.evaluator',
      "found 'likelihood', and enumerated thoughts have none",
      legal="'exact', 'value' or 'vote'",
    )
