"""What the fields of a config's `search` mean."""

import dataclasses

import ml_collections

from kd.reasoning import tree_search
from kd.sampling import fields
from kd.sampling import requests


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
