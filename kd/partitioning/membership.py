"""Which processes a config and an environment mean."""

from collections.abc import Mapping
import os
from typing import Any

from kd.core import errors

_ENVIRONMENT = {
  'coordinator': 'JAX_COORDINATOR_ADDRESS',
  'count': 'JAX_NUM_PROCESSES',
  'index': 'JAX_PROCESS_ID',
}


def find(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Coordinator, count and index by name, None where nothing says them."""
  found = {}
  for name, variable in _ENVIRONMENT.items():
    value, unset = settings[name], -1 if name == 'index' else 0
    if name == 'coordinator':
      found[name] = value or os.environ.get(variable) or None
      continue
    if value == unset and variable in os.environ:
      value = _whole(variable, os.environ[variable])
    found[name] = None if value == unset else value
  return found


def _whole(variable, text):
  if not text.isdigit():
    raise errors.ConfigError(
      f'${variable}', f'found {text!r}', legal='a whole number'
    )
  return int(text)


def check(settings: Mapping[str, Any]) -> None:
  """Raises ConfigError where config.processes cannot be meant."""
  for name in ('start_timeout_s', 'dead_after_s', 'slow_after_s'):
    if settings[name] <= 0:
      raise errors.ConfigError(
        f'processes.{name}', f'found {settings[name]}', legal='above 0'
      )
  found = find(settings)
  count, index = found['count'], found['index']
  if count is not None and count < 1:
    raise errors.ConfigError(
      'processes.count', f'found {count}', legal='0 (as found), or more'
    )
  if index is not None and not 0 <= index < (count or index + 1):
    raise errors.ConfigError(
      'processes.index',
      f'found {index}, of {count} processes',
      legal=f'-1 (as found), or 0 to {count - 1}' if count else '-1, 0, ...',
    )
  if found['coordinator'] is None:
    return
  host, _, port = found['coordinator'].rpartition(':')
  if not host or not port.isdigit():
    raise errors.ConfigError(
      'processes.coordinator',
      f'found {found["coordinator"]!r}',
      legal='HOST:PORT of process 0',
    )
  for name in ('count', 'index'):
    if found[name] is None:
      raise errors.ConfigError(
        f'processes.{name}',
        'not given, and processes.coordinator is',
        legal=f'a number, here or in ${_ENVIRONMENT[name]}',
      )
