"""Converts a model's sizes to and from JSON, as stored in run.json."""

import dataclasses
from typing import Any

from kd.core import errors
from kd.core import json_files
from kd.models import families
from kd.models import family
from kd.models import file_fields
from kd.models.vision import config as vision

_FAMILY, _VISION = 'family', 'vision'


def to_json(config: family.Config) -> dict[str, Any]:
  """Returns the model's family and sizes as JSON values."""
  return {_FAMILY: config.family, **config.to_dict()}


def from_json(value: Any, where: str) -> family.Config:
  """Returns the sizes that `to_json` wrote.

  Args:
    value: the JSON value; the default family is families.FIRST.
    where: its file and field, for messages.

  Raises:
    ConfigError: a field is missing or wrong.
  """
  if not isinstance(value, dict):
    raise errors.ConfigError(
      where, f'found {json_files.short(value)}', legal='an object'
    )
  value = dict(value)
  name = value.pop(_FAMILY, families.FIRST)
  if name not in families.NAMES:
    text = json_files.short(name).strip("'")
    raise errors.unknown(f'{where}.{_FAMILY}', 'family', text, families.NAMES)
  config_type = families.get(name).config_type
  tower = _tower(value.pop(_VISION, None), f'{where}.{_VISION}')
  fields = {
    f.name: f for f in dataclasses.fields(config_type) if f.name != _VISION
  }
  if set(value) != set(fields):
    raise errors.ConfigError(
      where,
      f'found {json_files.short(value)}',
      legal=f'an object with {", ".join(fields)}',
    )
  read = {
    key: _field(value[key], field.type, f'{where}.{key}', config_type)
    for key, field in fields.items()
  }
  file_fields.check_kv_heads(
    read['num_heads'],
    read['num_kv_heads'],
    f'{where}.num_kv_heads',
    'num_heads',
  )
  return config_type(**read, **({_VISION: tower} if tower else {}))


def _tower(value, where):
  """Returns the vision tower that `to_json` wrote, or None."""
  if value is None:
    return None
  fields = {f.name: f.type for f in dataclasses.fields(vision.VisionConfig)}
  if not isinstance(value, dict) or set(value) != set(fields):
    raise errors.ConfigError(
      where,
      f'found {json_files.short(value)}',
      legal=f'an object with {", ".join(fields)}',
    )
  return vision.VisionConfig(
    **{
      key: file_fields.number(value[key], f'{where}.{key}', kind)
      for key, kind in fields.items()
    }
  )


def _field(value, kind, where, config_type):
  """Returns a field's value: a number, a flag, or the kinds of layers."""
  if kind in (int, float):
    return file_fields.number(value, where, kind)
  if kind is bool:
    if not isinstance(value, bool):
      found = f'found {json_files.short(value)}'
      raise errors.ConfigError(where, found, legal='true, false')
    return value
  kinds = config_type.KINDS
  if (
    not isinstance(value, list)
    or not 0 < len(value) <= file_fields.MAX_LAYERS
    or not set(map(str, value)) <= set(kinds)
  ):
    raise errors.ConfigError(
      where,
      f'found {json_files.short(value)}',
      legal=f'1 to {file_fields.MAX_LAYERS} of {", ".join(sorted(kinds))}',
    )
  return tuple(value)
