"""Reads text files of users; errors name the line."""

from kd.core import errors

_UTF8 = 'text in UTF-8'


def read(path: str) -> str:
  """Reads a text file.

  Args:
    path: path of a UTF-8 file.

  Raises:
    ConfigError: the bytes are not UTF-8; names the line.
  """
  with open(path, 'rb') as f:
    data = f.read()
  try:
    return data.decode('utf-8')
  except UnicodeDecodeError as e:
    line = data.count(b'\n', 0, e.start) + 1
    raise not_utf8(f'{path}:{line}', e) from e


def not_utf8(where: str, error: UnicodeDecodeError) -> errors.ConfigError:
  """Returns the error for bytes that are not UTF-8; `where` is their line."""
  return errors.ConfigError(where, str(error), legal=_UTF8)


def check_unicode(text: str, where: str) -> None:
  """Refuses half of a surrogate pair, which cannot be encoded.

  Programs that truncate text by UTF-16 units may split an emoji.

  Args:
    text: any string.
    where: file and line, or another source of the text, for errors.

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
