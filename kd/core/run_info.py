"""Collects the versions, devices and command line of a run."""

import datetime
from importlib import metadata
import math
import os
import platform
import sys
from typing import Any

import jax

from kd.core import host_memory

_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'grain',
  'seqio',
  'tensorflow',
  'numpy',
)


def collect() -> dict[str, Any]:
  """Returns the versions, devices and command line of this process."""
  return {
    'command': sys.argv,
    'python': platform.python_version(),
    'packages': packages(),
    'devices': [str(d) for d in jax.devices()],
    'device_kind': jax.devices()[0].device_kind,
    'device_bytes': _device_bytes(),
    'host_bytes': host_memory.total_bytes(),
    'process_count': jax.process_count(),
  }


def _device_bytes() -> int | None:
  """Returns the memory of a device; None if it is not reported."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get('bytes_limit')


def packages() -> dict[str, str]:
  """Returns the versions of the main libraries."""
  return {name: metadata.version(name) for name in _PACKAGES}


_DATE = '%Y-%m-%d %H:%M:%SZ'


def now() -> str:
  """Returns the current time in UTC, such as 2026-11-29 03:04:05Z."""
  return datetime.datetime.now(datetime.UTC).strftime(_DATE)


def date(path: str) -> str:
  """Returns the time of a file's last modification, formatted as in `now`."""
  moment = datetime.datetime.fromtimestamp(os.path.getmtime(path), datetime.UTC)
  return moment.strftime(_DATE)


def json_number(value: float | None) -> float | str | None:
  """Returns a float, or its name if it is not finite; float() parses both.

  Args:
    value: the number; a missing one, None, is returned unchanged.
  """
  if value is None:
    return None
  value = float(value)
  if math.isfinite(value):
    return value
  return str(value).replace('inf', 'Infinity').replace('nan', 'NaN')


def jsonable(value: Any) -> Any:
  """Converts a value of dicts, lists and scalars to strict JSON.

  Numbers that are not finite become strings; see `json_number`.
  """
  if isinstance(value, float):
    return json_number(value)
  if isinstance(value, dict):
    return {str(k): jsonable(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [jsonable(v) for v in value]
  return value
