"""Writes configs as JSON and finds the differences between two."""

from collections.abc import Iterator, Mapping
import json
from typing import Any

import ml_collections

from kd.core import errors

# The value of a leaf that only the other of two configs has.
ABSENT = 'absent'


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns the leaves by dotted path; an empty sub-dict is a leaf."""
  leaves = {}
  for key, value in config.items():
    path = f'{prefix}{key}'
    if isinstance(value, Mapping | ml_collections.ConfigDict) and len(value):
      leaves.update(flatten(value, f'{path}.'))
    else:
      leaves[path] = value
  return leaves


def to_json(config: ml_collections.ConfigDict) -> str:
  """Returns the config as JSON with sorted keys; tuples become lists."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def differences(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
  """Yields (path, old value, new value) of each leaf that differs."""
  before, after = flatten(old), flatten(new)
  for path in sorted(before.keys() | after.keys()):
    pair = before.get(path, ABSENT), after.get(path, ABSENT)
    if pair[0] != pair[1]:
      yield path, *pair


def difference_lines(
  recorded: Mapping[str, Any], current: Mapping[str, Any]
) -> list[str]:
  """Returns a line 'name: recorded X, now Y' for each leaf that differs.

  Args:
    recorded: recorded values, as read from JSON.
    current: current values; tuples equal lists, as in JSON.
  """
  current = json.loads(json.dumps(current))
  return [
    f'{name}: recorded {old!r}, now {new!r}'
    for name, old, new in differences(recorded, current)
  ]


def refuse_differences(
  recorded: Mapping[str, Any],
  current: Mapping[str, Any],
  path: str,
  what: str,
  legal: str,
) -> None:
  """Refuses a folder that was written with different values.

  Args:
    recorded: values that the folder was written with, as read from JSON.
    current: current values; tuples equal lists, as in JSON.
    path: the flag or field that names the folder.
    what: description of the folder's content, for the message.
    legal: legal values of `path`, for the message.

  Raises:
    ConfigError: a value differs; the message lists all differences.
  """
  lines = difference_lines(recorded, current)
  if lines:
    raise errors.ConfigError(path, what + ':\n  ' + '\n  '.join(lines), legal)
