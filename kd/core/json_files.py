"""Reads JSON written by users; errors name the file and the line."""

from collections.abc import Mapping, Sequence
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
  """Returns the `repr` of a JSON value, shortened to fit in a message."""
  return _SHORT.repr(value)


def unexpected(path: str, value: Any, legal: str) -> errors.ConfigError:
  """Returns the error for an illegal JSON value.

  Args:
    path: the file and the key.
    value: the value, shortened in the message.
    legal: the legal values.
  """
  return errors.ConfigError(path, f'found {short(value)}', legal=legal)


def parse(data: bytes, where: str, legal: str, is_file: bool = False) -> Any:
  """Parses JSON that a user may have written.

  Args:
    data: UTF-8 bytes of a line or of a whole file.
    where: the file, and the line if `data` is one, for messages.
    legal: the legal values, for messages.
    is_file: whether `data` is a whole file, so that messages add the line.

  Returns:
    The value, with finite numbers and valid Unicode strings.

  Raises:
    ConfigError: `data` is not UTF-8 or not JSON, is nested too deeply, or
      contains half of a surrogate pair.
  """

  def fail(problem: str, line: int = 0):
    place = f'{where}:{line}' if is_file and line else where
    return errors.ConfigError(place, problem, legal=legal)

  try:
    text = data.decode('utf-8')
  except UnicodeDecodeError as e:
    line = data.count(b'\n', 0, e.start) + 1
    raise fail(
      f'is not UTF-8: byte {data[e.start]:#04x} at offset {e.start}', line
    ) from e
  try:
    value = json.loads(
      text, parse_constant=_refuse_constant, parse_float=_finite
    )
  except json.JSONDecodeError as e:
    raise fail(f'is not JSON: {e}', e.lineno) from e
  except RecursionError as e:
    raise fail('is nested too deeply') from e
  except ValueError as e:  # Not finite, or an integer with too many digits.
    raise fail(f'is not JSON: {e}') from e
  if '\\ud' in text or '\\uD' in text:  # Surrogates can only be escapes.
    text_files.check_unicode(json.dumps(value, ensure_ascii=False), where)
  return value


def parse_object(
  data: bytes, where: str, legal: str, is_file: bool = False
) -> dict[str, Any]:
  """Parses JSON that must be an object; see `parse`.

  Raises:
    ConfigError: as `parse`, or the value is not an object.
  """
  value = parse(data, where, legal, is_file)
  if not isinstance(value, dict):
    raise errors.ConfigError(
      where, f'holds {short(value)}, not an object', legal=legal
    )
  return value


def read(path: str, field: str = '') -> dict[str, Any]:
  """Reads a file that contains one JSON object.

  Args:
    path: the file.
    field: the config field that names the file, for messages.

  Returns:
    The object, with finite numbers.

  Raises:
    ConfigError: the file is missing, is not UTF-8 or is not a JSON object; the
      message names the file and, if known, the line.
  """
  try:
    return _read(path)
  except errors.ConfigError as e:
    if not field:
      raise
    raise errors.ConfigError(field, str(e)) from e


def _read(path):
  try:
    with open(path, 'rb') as f:
      data = f.read()
  except (FileNotFoundError, NotADirectoryError) as e:
    raise errors.ConfigError(path, 'no such file', legal=_LEGAL) from e
  except IsADirectoryError as e:
    raise errors.ConfigError(path, 'is a folder', legal=_LEGAL) from e
  if not data.strip():
    raise errors.ConfigError(path, 'is empty', legal=_LEGAL)
  return parse_object(data, path, _LEGAL, is_file=True)


def read_in(directory: str, name: str, field: str = '') -> dict[str, Any]:
  """Reads DIRECTORY/NAME; returns {} if there is no such file.

  Args:
    directory: the folder.
    name: the file's name.
    field: the config field that names the folder, for messages.

  Raises:
    ConfigError: as `read`.
  """
  path = os.path.join(directory, name)
  there = os.path.isfile(path) or os.path.isdir(path)
  return read(path, field) if there else {}


def texts(
  value: Mapping[str, Any],
  where: str,
  legal: str,
  required: Sequence[str],
  optional: Sequence[str] = (),
) -> dict[str, str]:
  """Returns the strings of an object under the given keys.

  Args:
    value: the object.
    where: file and line of the object, for messages.
    legal: legal contents of the object, for messages.
    required: keys that must be present.
    optional: keys that may be present.

  Raises:
    ConfigError: a required key is missing, or a value is not a string.
  """
  found = {}
  for key in (*required, *optional):
    if key not in value:
      if key in required:
        raise errors.ConfigError(where, f'has no {key}', legal=legal)
      continue
    if not isinstance(value[key], str):
      raise errors.ConfigError(
        where, f'{key} is {short(value[key])}', legal='text'
      )
    found[key] = value[key]
  return found


def _refuse_constant(name: str) -> None:
  raise ValueError(f'{name} is not a JSON number')


def _finite(text: str) -> float:
  value = float(text)
  if not math.isfinite(value):
    raise ValueError(f'{text[:40]} is too large')
  return value
