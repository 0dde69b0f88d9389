"""What the fields of a config's `search` mean, and rules between them."""

import dataclasses

import ml_collections

from kd.core import errors
from kd.reasoning import problems
from kd.reasoning import tree_search
from kd.sampling import fields
from kd.sampling import requests


def check(search: ml_collections.ConfigDict) -> None:
  """Refuses a search that its problem cannot serve.

  Raises:
    ConfigError: names the first field.
  """
  most = problems.SOURCES[search.problem].problem.most_examples
  if not 0 <= search.shots <= most:
    raise errors.ConfigError(
      'search.shots', f'found {search.shots}', legal=f'0 to {most}'
    )
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
