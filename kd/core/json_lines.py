"""Files of JSON lines that grow during a run and that later runs continue.

A killed process may leave an incomplete line at the end of such a file. The
next process reads the complete lines, truncates the rest, and continues.
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
  """Encodes a record as one line.

  Raises:
    ValueError: a number is not finite, which JSON cannot express.
  """
  line = json.dumps(record, ensure_ascii=False, allow_nan=False)
  return line.encode('utf-8') + b'\n'


def write(path: str, records: Iterable[Mapping[str, Any]]) -> bytes:
  """Writes a whole file atomically and returns its bytes."""
  data = b''.join(map(encode, records))
  atomic_files.write_bytes(path, data)
  return data


def append(file: BinaryIO, records: Iterable[Mapping[str, Any]]) -> None:
  """Appends records to a file and syncs it to disk.

  Args:
    file: a file opened for appending, in binary mode.
    records: the records, one per line.
  """
  file.write(b''.join(map(encode, records)))
  file.flush()
  os.fsync(file.fileno())
  buckets.upload_if_due(file.name)


def resume(path: str, legal: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Reads a file's complete lines, then truncates an incomplete last line.

  Nothing is truncated if the caller stops before the end, so that a file of
  another kind stays unchanged.

  Args:
    path: the file; a missing file has no lines.
    legal: legal content of a line, for messages.

  Yields:
    'FILE:LINE', for messages, and the object on that line.

  Raises:
    ConfigError: a line is not a JSON object, or the path is a folder.
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
