"""Workdirs of earlier versions of kd."""

import json

import pytest

from kd.config import base
from kd.config import command_line
from kd.config import schema
from kd.core import config as config_lib
from kd.core import errors
from kd.run import workdirs


def test_a_config_of_an_earlier_version(tmp_path):
  config = base.checked(command_line.load('configs/quickstart.py'))
  recorded = json.loads(config_lib.to_json(config))
  _remove_defaults(recorded, json.loads(config_lib.to_json(_DEFAULTS)))
  assert 'ema' not in recorded and 'quantize' not in recorded['student']
  assert recorded['student']['variant'] == 'nano'
  recorded['data']['rationale'] = {'dropped': 0.0}
  recorded['data']['module'] = 'data.mixtures'
  config.teacher.source = 'on_policy'
  recorded['teacher']['source'] = 'rollout'
  (tmp_path / 'config.json').write_text(json.dumps(recorded))

  changes = workdirs.check(config, str(tmp_path))
  assert not changes.fields and not changes.paths
  read = workdirs.recorded_config(str(tmp_path))
  assert read.to_dict() == config.to_dict()

  # A run that ended at its budget resumes with a larger one.
  config.teacher.server.budget.requests = 200
  config.data.images.features_folder = '/elsewhere'
  workdirs.check(config, str(tmp_path))

  recorded['student']['variant'] = '1b'
  (tmp_path / 'config.json').write_text(json.dumps(recorded))
  with pytest.raises(errors.ConfigError) as e:
    workdirs.check(config, str(tmp_path))
  assert str(e.value).count('recorded ') == 1
  assert 'student.variant' in str(e.value)


_DEFAULTS = schema.defaults(base.ROOT)


def _remove_defaults(values, defaults):
  """Removes fields at their defaults, except names, which decide the fields."""
  for key in list(values):
    if key == 'name' or key not in defaults:
      continue
    if values[key] == defaults[key]:
      del values[key]
    elif isinstance(values[key], dict) and isinstance(defaults[key], dict):
      _remove_defaults(values[key], defaults[key])
