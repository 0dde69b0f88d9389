"""Collects versions, devices and command line of a run."""

import datetime
from importlib import metadata
import io
import json
import math
import os
import platform
import sys
from typing import Any

import jax

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
  """Returns versions, devices and command line of this process."""
  return {
    'command': sys.argv,
    'python': platform.python_version(),
    'packages': {name: metadata.version(name) for name in _PACKAGES},
    'devices': [str(d) for d in jax.devices()],
    'process_count': jax.process_count(),
  }


_DATE = '%Y-%m-%d %H:%M:%SZ'


def now() -> str:
  """Returns this moment in UTC, as 2026-11-29 03:04:05Z."""
  return datetime.datetime.now(datetime.UTC).strftime(_DATE)


def date(path: str) -> str:
  """Returns when a file was last written, as `now` does."""
  moment = datetime.datetime.fromtimestamp(os.path.getmtime(path), datetime.UTC)
  return moment.strftime(_DATE)


def json_number(value: float) -> float | str:
  """Returns a number, or its name where JSON has none: float() reads both."""
  value = float(value)
  if math.isfinite(value):
    return value
  return str(value).replace('inf', 'Infinity').replace('nan', 'NaN')


def write_json(path: str, value: Any) -> None:
  """Writes JSON aside, then renames, so that readers never see half of it.

  Raises:
    ValueError: a number is not finite: JSON has no such numbers.
  """
  text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
  write_text(path, text + '\n')


def write_text(path: str, text: str) -> None:
  """Writes text aside, then renames."""
  write_bytes(path, text.encode('utf-8'))


def write_picture(path: str, figure: Any, dpi: int) -> None:
  """Writes a matplotlib figure as PNG aside, then renames."""
  data = io.BytesIO()
  figure.savefig(data, format='png', dpi=dpi)
  write_bytes(path, data.getvalue())


def sync(path: str) -> None:
  """Makes a file's bytes, or a folder's names, outlive a power cut."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_bytes(path: str, value: bytes) -> None:
  """Writes bytes aside, then renames.

  Aside is one name, so that what a killed process left is written over; only
  one process at a time may write a path.
  """
  aside = f'{path}.tmp'
  with open(aside, 'wb') as f:
    f.write(value)
    f.flush()
    os.fsync(f.fileno())
  os.replace(aside, path)
