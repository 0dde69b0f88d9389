"""The fields of a config's `search`: what is legal, and what they amount to."""

import dataclasses

import ml_collections

from kd.core import errors
from kd.reasoning import problems
from kd.reasoning import tree_methods
from kd.reasoning import tree_search
from kd.sampling import fields
from kd.sampling import requests

_CHOICES = {
  'problem': tuple(problems.SOURCES),
  'method': tuple(tree_methods.METHODS),
  'proposals': tree_search.PROPOSALS,
  'evaluator': tree_search.EVALUATORS,
}
_LEAST = {
  **dict.fromkeys(('samples', 'votes', 'breadth', 'together'), 1),
  **dict.fromkeys(('depth', 'solutions', 'first', 'draw', 'contrast'), 0),
  **dict.fromkeys(('max_calls', 'max_tokens', 'max_nodes', 'seed'), 0),
}


def check(search: ml_collections.ConfigDict) -> None:
  """Refuses what is illegal in a config's `search`.

  Raises:
    ConfigError: names the first field.
  """
  for name, legal in _CHOICES.items():
    if search[name] not in legal:
      raise errors.unknown(f'search.{name}', 'value', search[name], legal)
  for name, least in _LEAST.items():
    if search[name] < least:
      raise errors.ConfigError(
        f'search.{name}', f'found {search[name]}', legal=f'{least} or more'
      )
  if search.count < -1 or not search.count:
    raise errors.ConfigError(
      'search.count', f'found {search.count}', legal='-1 (all), or above 0'
    )
  if not 0 <= search.prune < 1:
    raise errors.ConfigError(
      'search.prune', f'found {search.prune}', legal='[0, 1)'
    )
  most = problems.SOURCES[search.problem].problem.most_examples
  if not 0 <= search.shots <= most:
    raise errors.ConfigError(
      'search.shots', f'found {search.shots}', legal=f'0 to {most}'
    )
  fields.check(search, 'search')
  enumerated = search.proposals == 'enumerated'
  if enumerated and not problems.SOURCES[search.problem].problem.enumerable:
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


def asks_model(search: ml_collections.ConfigDict) -> bool:
  """Whether a search needs a model at all."""
  judged = search.evaluator in tree_search.ASKED
  return search.proposals == 'sampled' or judged


def plan_of(search: ml_collections.ConfigDict) -> tree_search.Plan:
  """The fields that a search of one tree goes by."""
  names = [field.name for field in dataclasses.fields(tree_search.Plan)]
  return tree_search.Plan(**{name: search[name] for name in names})


def settings_of(search: ml_collections.ConfigDict) -> requests.Settings:
  """A thought, a judgement and a vote are one line each."""
  return fields.settings(search, ('\n',))
