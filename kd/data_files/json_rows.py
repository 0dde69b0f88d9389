"""Reads files of JSON lines, compressed or not, in bounded memory."""

from collections.abc import Callable, Iterator
import contextlib
import gzip
import io
from typing import Any, BinaryIO
import zlib

from kd.core import errors
from kd.core import json_files

LEGAL = 'JSON lines in UTF-8: an object on each line (jq -c .[] writes them)'
LONGEST = 64 << 20  # bytes of a line
_UTF8_BOM = b'\xef\xbb\xbf'
_UTF16_BOMS = (b'\xff\xfe', b'\xfe\xff')

Row = tuple[str, dict[str, Any]]
# Called with the error of a row: raises it or records it.
Bad = Callable[[errors.ConfigError], None]


def refuse(error: errors.ConfigError) -> None:
  """Raises the error of a row."""
  raise error


def read(path: str, bad: Bad = refuse, legal: str = LEGAL) -> Iterator[Row]:
  """Yields 'FILE:LINE' and the object of each line that is not blank.

  Args:
    path: the file.
    bad: called with the error of each invalid line, which names the line.
    legal: description of a valid line, for messages.

  Raises:
    ConfigError: a compressed file is damaged.
  """
  with _opened(path) as stream, _damage_reported(path):
    for number, line, is_torn in _lines(stream, path, bad):
      where = f'{path}:{number}'
      if not line.strip():
        continue
      try:
        row = json_files.parse_object(line, where, legal)
      except errors.ConfigError as e:
        if is_torn:
          e = errors.ConfigError(
            where,
            f'the file ends within this line ({e})',
            legal='complete lines',
          )
        bad(e)
        continue
      yield where, row


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
  with contextlib.ExitStack() as stack:
    raw = stack.enter_context(open(path, 'rb'))
    if path.lower().endswith('.gz'):
      raw = stack.enter_context(gzip.GzipFile(fileobj=raw))
    elif path.lower().endswith('.zst'):
      import pyarrow

      raw = io.BufferedReader(
        stack.enter_context(pyarrow.CompressedInputStream(raw, 'zstd'))
      )
    yield raw


@contextlib.contextmanager
def _damage_reported(path: str) -> Iterator[None]:
  """Turns decompression errors into ConfigError; OS errors have an errno."""
  try:
    yield
  except (OSError, EOFError, zlib.error) as e:
    if isinstance(e, OSError) and e.errno is not None:
      raise
    raise errors.ConfigError(
      path, f'is damaged: {e}', legal='a complete compressed file'
    ) from e


def _lines(
  stream: BinaryIO, path: str, bad: Bad
) -> Iterator[tuple[int, bytes, bool]]:
  """Yields each line's number and bytes, and whether it has no newline."""
  number = 0
  while line := stream.readline(LONGEST + 1):
    number += 1
    if number == 1:
      line = _without_mark(line, path, bad)
    if len(line) > LONGEST:
      bad(
        errors.ConfigError(
          f'{path}:{number}',
          f'has more than {LONGEST:,} bytes',
          legal='shorter lines: divide the example',
        )
      )
      while line and not line.endswith(b'\n'):
        line = stream.readline(LONGEST)
      continue
    yield number, line, not line.endswith(b'\n')


def _without_mark(line: bytes, path: str, bad: Bad) -> bytes:
  """Reports a byte order mark; returns a blank line in place of that line."""
  if line.startswith(_UTF16_BOMS):
    raise errors.ConfigError(
      f'{path}:1', 'is UTF-16, not UTF-8', legal=f'{LEGAL}; save it as UTF-8'
    )
  if line.startswith(_UTF8_BOM):
    bad(
      errors.ConfigError(
        f'{path}:1',
        'begins with a byte order mark (BOM)',
        legal='UTF-8 without a byte order mark',
      )
    )
    return b'\n'
  return line
