"""Digests that identify what a result was computed from."""

from collections.abc import Iterator, Mapping
import hashlib
import json
from typing import Any

from kd.core import config as config_lib


def digest(value: Any) -> str:
  """Returns 16 hex digits of the SHA-256 of a value's JSON, keys sorted."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(
  recorded: Mapping[str, Any], current: Mapping[str, Any]
) -> Iterator[str]:
  """Yields a line 'name: there X, now Y' for each field that differs.

  Args:
    recorded: read from JSON.
    current: what it must be; tuples count as lists, as in JSON.
  """
  current = json.loads(json.dumps(current))
  for name, there, here in config_lib.differences(recorded, current):
    yield f'{name}: there {there!r}, now {here!r}'
