"""Validation, differences and JSON of configs; the flag is in tests/."""

import json

import ml_collections
import pytest

from configs import base
from kd.core import config as config_lib
from kd.core import errors


def _base():
  return ml_collections.ConfigDict(
    dict(
      steps=1,
      lr=0.1,
      on=True,
      layers=(),
      name='a',
      part=dict(size=2),
      losses=dict(kl=dict(weight=1.0)),
    )
  )


def _changed(**changes):
  config = _base()
  with config.unlocked():
    config.update(changes)
  return config


def test_fitting_types_pass():
  config_lib.check_fields(
    _changed(lr=1, layers=[1, 3], losses=dict(any=3)), _base()
  )


@pytest.mark.parametrize(
  'changes,words',
  [
    (dict(step=2), ('step', "unknown field 'step'", "'steps'")),
    (dict(part=dict(sise=3)), ('part.sise', "'size'")),
    (dict(steps=1.5), ('steps', '1.5', 'float', 'int')),
    (dict(steps=True), ('steps', 'bool')),
    (dict(on=1), ('on', 'bool')),
    (dict(name=3), ('name', 'str')),
    (dict(layers='1,2'), ('layers', 'tuple')),
    (dict(part=3), ('part', 'int')),
  ],
)
def test_other_fields_are_named(changes, words):
  # A file may put any type anywhere: plain dicts know no types.
  config = _base().to_dict()
  for key, value in changes.items():
    nested = isinstance(value, dict) and isinstance(config.get(key), dict)
    config[key] = {**config[key], **value} if nested else value
  with pytest.raises(errors.ConfigError) as e:
    config_lib.check_fields(config, _base())
  assert all(word in str(e.value) for word in words), str(e.value)


def test_a_missing_field_is_named():
  config = _base().to_dict()
  del config['part']['size']
  with pytest.raises(errors.ConfigError, match='part.size: missing'):
    config_lib.check_fields(config, _base())


def test_differences_are_leaves():
  old, new = _base().to_dict(), _base().to_dict()
  new['part']['size'] = 3
  new['losses']['ce'] = {'weight': 0.5}
  assert list(config_lib.differences(old, new)) == [
    ('losses.ce.weight', 'absent', 0.5),
    ('part.size', 2, 3),
  ]


def test_every_default_survives_json_and_freezing():
  config = base.get_config()
  text = config_lib.to_json(config)
  frozen = ml_collections.FrozenConfigDict(config)
  assert config_lib.to_json(frozen) == text
  again = json.loads(text)
  assert not list(config_lib.differences(json.loads(text), again))
  assert again['student']['keep_layers'] == []
  assert all(v is not None for v in config_lib.flatten(again).values())
