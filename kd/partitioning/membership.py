"""Reads a run's process settings from the config and the environment."""

from collections.abc import Mapping
import os
import re
from typing import Any

import jax

from kd.core import errors

_ENVIRONMENT = {
  'coordinator': 'JAX_COORDINATOR_ADDRESS',
  'count': 'JAX_NUM_PROCESSES',
  'index': 'JAX_PROCESS_ID',
}
_MOST = 2**20  # processes
_PORTS = 65_535


def on_tpu() -> bool:
  """Returns whether a TPU's metadata may provide what the config does not."""
  return 'tpu' in (jax.config.jax_platforms or '')


def find(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Returns coordinator, count and index by name; None where not set.

  Raises:
    ConfigError: an environment variable is not a whole number.
  """
  resolved = {}
  for name, variable in _ENVIRONMENT.items():
    value, unset = settings[name], -1 if name == 'index' else 0
    if name == 'coordinator':
      resolved[name] = value or os.environ.get(variable) or None
      continue
    if value == unset and variable in os.environ:
      value = _whole(variable, os.environ[variable])
    resolved[name] = None if value == unset else value
  return resolved


def _whole(variable, text):
  """Returns the number in an environment variable, written in ASCII digits."""
  if not re.fullmatch('[0-9]{1,7}', text) or int(text) > _MOST:
    raise errors.ConfigError(
      f'${variable}',
      f'found {text[:40]!r}',
      legal=f'a whole number up to {_MOST}',
    )
  return int(text)


def check(settings: Mapping[str, Any]) -> None:
  """Raises if the process settings contradict each other.

  Args:
    settings: the config's `processes`, with each field checked separately.

  Raises:
    ConfigError: names the field or the environment variable.
  """
  resolved = find(settings)
  count, index = resolved['count'], resolved['index']
  if index is not None and not 0 <= index < (count or index + 1):
    raise errors.ConfigError(
      'processes.index',
      f'found {index}, of {count} processes',
      legal=f'-1 (not set), or 0 to {count - 1}',
    )
  if resolved['coordinator'] is None:
    if not on_tpu():
      check_alone(resolved)
    return
  _check_address(resolved['coordinator'])
  for name in ('count', 'index'):
    if resolved[name] is None:
      raise errors.ConfigError(
        f'processes.{name}',
        'not set, but processes.coordinator is',
        legal=f'a number, here or in ${_ENVIRONMENT[name]}',
      )


def check_alone(resolved: Mapping[str, Any]) -> None:
  """Raises if there are several processes without a coordinator.

  Raises:
    ConfigError: names processes.coordinator.
  """
  count, index = resolved['count'], resolved['index']
  for name, value, alone in (('count', count, 1), ('index', index, 0)):
    if value is not None and value != alone:
      raise errors.ConfigError(
        'processes.coordinator',
        f'not set, but processes.{name} is {value}',
        legal='HOST:PORT of process 0, unless on a Cloud TPU',
      )


def _check_address(address):
  match = re.fullmatch(
    r'(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})', address
  )
  if not match or not 1 <= int(match[2]) <= _PORTS:
    raise errors.ConfigError(
      'processes.coordinator',
      f'found {address!r}',
      legal=f'HOST:PORT of process 0, with a port of 1 to {_PORTS}',
    )
