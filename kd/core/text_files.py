"""Text that users bring: read once, with the line of whatever is wrong."""

import json
from typing import Any, NoReturn

from kd.core import errors

_UTF8 = 'text in UTF-8'


def read(path: str) -> str:
  """Returns a file's text.

  Args:
    path: a file in UTF-8.

  Raises:
    ConfigError: the bytes are not UTF-8; names the line.
  """
  with open(path, 'rb') as f:
    data = f.read()
  try:
    return data.decode('utf-8')
  except UnicodeDecodeError as e:
    line = data.count(b'\n', 0, e.start) + 1
    raise errors.ConfigError(f'{path}:{line}', str(e), legal=_UTF8) from e


def parse_json(line: bytes, where: str, legal: str) -> Any:
  """Returns the value of one line of JSON, whose texts are all valid Unicode.

  Args:
    line: UTF-8 bytes.
    where: file and line, for errors.
    legal: what the line may hold, for errors.

  Raises:
    ConfigError: the line is not UTF-8 or not JSON, nests too deeply, or has a
      text with half of a surrogate pair.
  """
  try:
    value = json.loads(line.decode('utf-8'), parse_constant=_refuse_constant)
  except UnicodeDecodeError as e:
    raise errors.ConfigError(where, f'is not UTF-8 ({e})', legal=legal) from e
  except RecursionError as e:
    raise errors.ConfigError(where, 'nests too deeply', legal=legal) from e
  except ValueError as e:
    raise errors.ConfigError(where, f'is not JSON ({e})', legal=legal) from e
  if b'\\u' in line:  # Only an escape can write a surrogate.
    check_unicode(json.dumps(value, ensure_ascii=False), where)
  return value


def _refuse_constant(name: str) -> NoReturn:
  raise ValueError(f'{name} is not a JSON value')


def check_unicode(text: str, where: str) -> None:
  """Refuses half of a surrogate pair, which no encoding can write.

  Programs that count UTF-16 units leave one when they cut an emoji in two.

  Args:
    text: any string.
    where: file and line, or whatever the text came from, for errors.

  Raises:
    ConfigError: names the code point and its position.
  """
  try:
    text.encode('utf-8')
  except UnicodeEncodeError as e:
    raise errors.ConfigError(
      where,
      f'has half of a surrogate pair, U+{ord(text[e.start]):04X}, at character '
      f'{e.start + 1}',
      legal='valid Unicode text',
    ) from e
