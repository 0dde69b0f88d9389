"""Configs as JSON, and the differences between two of them."""

from collections.abc import Iterator, Mapping
import json
from typing import Any

import ml_collections

from kd.core import errors


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Leaves by dotted path; an empty sub-dict is a leaf."""
  leaves = {}
  for key, value in config.items():
    path = f'{prefix}{key}'
    if isinstance(value, Mapping | ml_collections.ConfigDict) and len(value):
      leaves.update(flatten(value, f'{path}.'))
    else:
      leaves[path] = value
  return leaves


def to_json(config: ml_collections.ConfigDict) -> str:
  """The resolved config as JSON, keys in order; tuples become lists."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def differences(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
  """Yields (path, old value, new value) of each leaf that differs."""
  absent = 'absent'
  before, after = flatten(old), flatten(new)
  for path in sorted(before.keys() | after.keys()):
    pair = before.get(path, absent), after.get(path, absent)
    if pair[0] != pair[1]:
      yield path, *pair


def refuse_differences(
  found: Mapping[str, Any],
  wanted: Mapping[str, Any],
  path: str,
  what: str,
  legal: str,
  beside: tuple[str, ...] = (),
) -> None:
  """Refuses what a folder holds, where it is of something else.

  Args:
    found: what it is of, as JSON.
    wanted: what it must be of; as JSON has it, where tuples are lists.
    path: of the flag or field that names the folder.
    what: the folder holds, as the message says it.
    legal: what would be.
    beside: beginnings of the fields that may differ.

  Raises:
    ConfigError: names each field that differs, with both values.
  """
  wanted = json.loads(json.dumps(wanted))
  lines = [
    f'{field}: there {there!r}, now {now!r}'
    for field, there, now in differences(found, wanted)
    if not (beside and field.startswith(beside))
  ]
  if lines:
    raise errors.ConfigError(path, what + ':\n  ' + '\n  '.join(lines), legal)
