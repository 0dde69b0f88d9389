"""Reads JSON files; anything but one well-formed object is a ConfigError."""

import json
import math
import os
import reprlib
from typing import Any

from kd.core import errors
from kd.core import text_files

_LEGAL = 'a JSON object in UTF-8, without a byte order mark'

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist = 3, 4, 8
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 80, 40, 80


def short(value: Any) -> str:
  """Returns the `repr` of a JSON value, shortened to fit into a message."""
  return _SHORT.repr(value)


def read(path: str, field: str = '') -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Args:
    path: the file.
    field: the config field that names the file, for messages.

  Returns:
    The object; its numbers are finite.

  Raises:
    ConfigError: the file is missing, is not UTF-8, or is no JSON object; the
      message names the file and, where known, the line.
  """

  def fail(found: str, line: int = 0, legal: str = _LEGAL):
    place = f'{path}:{line}' if line else path
    if field:
      return errors.ConfigError(field, f'{place}: {found}', legal=legal)
    return errors.ConfigError(place, found, legal=legal)

  try:
    with open(path, 'rb') as f:
      raw = f.read()
  except (FileNotFoundError, NotADirectoryError) as e:
    raise fail('no such file') from e
  except IsADirectoryError as e:
    raise fail('is a folder') from e
  if not raw.strip():
    raise fail('is empty')
  try:
    text = raw.decode('utf-8')
  except UnicodeDecodeError as e:
    line = raw.count(b'\n', 0, e.start) + 1
    raise fail(
      f'is not UTF-8: byte {raw[e.start]:#04x} at offset {e.start}', line
    ) from e
  try:
    value = json.loads(
      text, parse_constant=_refuse_constant, parse_float=_finite
    )
  except json.JSONDecodeError as e:
    raise fail(f'is not JSON: {e.msg}', e.lineno) from e
  except RecursionError as e:
    raise fail('is nested too deeply') from e
  except ValueError as e:  # Not finite, or an integer of thousands of digits.
    raise fail(f'is not JSON: {e}') from e
  if not isinstance(value, dict):
    raise fail(f'holds {short(value)}, not an object')
  if '\\ud' in text.lower():  # Only an escape can write a surrogate.
    where = f'{field}: {path}' if field else path
    text_files.check_unicode(json.dumps(value, ensure_ascii=False), where)
  return value


def read_in(directory: str, name: str, field: str = '') -> dict[str, Any]:
  """Reads DIRECTORY/NAME if there is such a file, else returns {}.

  Args:
    directory: the folder.
    name: the file's name.
    field: the config field that names the folder, for messages.

  Raises:
    ConfigError: as `read`.
  """
  path = os.path.join(directory, name)
  return read(path, field) if os.path.isfile(path) else {}


def _refuse_constant(name: str) -> None:
  raise ValueError(f'{name} is no JSON number')


def _finite(text: str) -> float:
  value = float(text)
  if not math.isfinite(value):
    raise ValueError(f'{text[:40]} is too large')
  return value
