"""Files of JSON lines that grow while a run goes on, and outlive its end.

A process that is killed may leave half a line at the end of such a file. The
next one reads the whole lines, cuts that rest off, and continues.
"""

from collections.abc import Iterable, Iterator, Mapping
import json
import os
from typing import Any, BinaryIO

from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import json_files


def encode(record: Mapping[str, Any]) -> bytes:
  """Returns a record as one line.

  Raises:
    ValueError: a number is not finite: JSON has no such numbers.
  """
  line = json.dumps(record, ensure_ascii=False, allow_nan=False)
  return line.encode('utf-8') + b'\n'


def write(path: str, records: Iterable[Mapping[str, Any]]) -> bytes:
  """Writes a whole file aside, then renames it; returns its bytes."""
  data = b''.join(map(encode, records))
  atomic_files.write_bytes(path, data)
  return data


def append(file: BinaryIO, records: Iterable[Mapping[str, Any]]) -> None:
  """Writes records so that they outlive a power cut.

  Args:
    file: open for appending, in binary mode.
    records: written as one line each.
  """
  file.write(b''.join(map(encode, records)))
  file.flush()
  os.fsync(file.fileno())
  buckets.upload_if_due(file.name)


def resume(path: str, legal: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Reads a file's whole lines, then cuts off the half one behind them.

  Nothing is cut if the caller stops before the end, so that a file of
  something else stays as it is.

  Args:
    path: the file; without one there are no lines.
    legal: what a line may hold, for messages.

  Yields:
    'FILE:LINE', for messages, and the object of that line.

  Raises:
    ConfigError: a line is no JSON object; names it. Or the path is a folder.
  """
  if not os.path.exists(path):
    return
  if os.path.isdir(path):
    raise errors.ConfigError(path, 'is a folder', legal=f'a file: {legal}')
  with open(path, 'rb') as f:
    data = f.read()
  whole = data[: data.rfind(b'\n') + 1]
  for number, line in enumerate(whole.split(b'\n')[:-1], 1):
    where = f'{path}:{number}'
    yield where, json_files.parse_object(line, where, legal)
  if len(whole) < len(data):
    os.truncate(path, len(whole))
