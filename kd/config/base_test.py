"""The defaults are legal, not shared, and unchanged by JSON."""

import json

import ml_collections

from kd.config import base
from kd.core import config as config_lib


def test_every_default_is_unchanged_by_json_and_freezing():
  config = base.get_config()
  text = config_lib.to_json(config)
  frozen = ml_collections.FrozenConfigDict(config)
  assert config_lib.to_json(frozen) == text
  again = json.loads(text)
  assert again['student']['keep_layers'] == []
  assert all(v is not None for v in config_lib.flatten(again).values())


def test_defaults_are_valid_and_canonical():
  config = base.get_config()
  assert config_lib.to_json(base.checked(config)) == config_lib.to_json(config)


def test_two_configs_share_no_state():
  one, other = base.get_config(), base.get_config()
  one.losses.kl.weight = 3.0
  one.evaluation.sets.held_out.examples = 1
  assert other.losses.kl.weight == 1.0
  assert other.evaluation.sets.held_out.examples == 64


def test_values_are_canonicalized():
  config = base.get_config()
  config.optimizer.lr.peak = 1
  config.student.keep_layers = [0, 2]
  config.losses.kl.weight = base.schedule(
    'linear', begin=1, end=0, first_step=0, last_step=9
  )
  config = base.checked(config)
  assert isinstance(config.optimizer.lr.peak, float)
  assert config.student.keep_layers == (0, 2)
  assert isinstance(config.losses.kl.weight.end, float)
