"""Fields of a config that are requests.Settings: what is legal in them."""

from typing import Any

import jax

from kd.core import errors
from kd.partitioning import rules
from kd.sampling import requests

_LEGAL = {
  'temperature': (lambda x: x >= 0, '0 or more'),
  'top_k': (lambda x: x >= 0, '0 (all), or above 0'),
  'top_p': (lambda x: 0 < x <= 1, '(0, 1]'),
  'min_p': (lambda x: 0 <= x < 1, '[0, 1)'),
  'repetition_penalty': (lambda x: x > 0, 'above 0'),
  'max_new_tokens': (lambda x: x >= 1, '1 or more'),
}


def check(fields: Any, path: str) -> None:
  """Refuses what is illegal.

  Args:
    fields: has the fields of Settings but `stop_strings`.
    path: of the config's part that they are in.

  Raises:
    ConfigError: names the first field.
  """
  for name, (fits, legal) in _LEGAL.items():
    if not fits(fields[name]):
      raise errors.ConfigError(
        f'{path}.{name}', f'found {fields[name]}', legal=legal
      )


def check_devices(batch_size: int, mesh: jax.sharding.Mesh, path: str) -> None:
  """Refuses rows that a mesh does not divide.

  Args:
    batch_size: answers that grow at a time.
    mesh: the devices.
    path: of the field that says how many.

  Raises:
    ConfigError: names it.
  """
  parts = rules.row_parts(mesh)
  if batch_size % parts:
    raise errors.ConfigError(
      path,
      f'found {batch_size}, which {parts} devices (mesh.data x mesh.fsdp) do '
      'not divide',
      legal=f'a multiple of {parts}',
    )


def settings(fields: Any, stop_strings: tuple[str, ...]) -> requests.Settings:
  """What the fields amount to."""
  return requests.Settings(
    **{name: fields[name] for name in _LEGAL}, stop_strings=stop_strings
  )
