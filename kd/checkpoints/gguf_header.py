"""The header of a GGUF file: its metadata, and where its tensors lie.

`gguf.GGUFReader` makes an array object of each string of the vocabulary, 9 s
for Gemma's 262,144; this steps over the lists that nobody asks for, and takes
a fraction of a second.
"""

from collections.abc import Sequence
import dataclasses
import math
import os
import struct
from typing import Any, BinaryIO

import gguf

from kd.core import errors

_Type = gguf.GGUFValueType
_FORMATS = {
  _Type.UINT8: 'B',
  _Type.INT8: 'b',
  _Type.UINT16: 'H',
  _Type.INT16: 'h',
  _Type.UINT32: 'I',
  _Type.INT32: 'i',
  _Type.UINT64: 'Q',
  _Type.INT64: 'q',
  _Type.FLOAT32: 'f',
  _Type.FLOAT64: 'd',
  _Type.BOOL: '?',
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """Where one tensor lies.

  Attributes:
    shape: outermost dimension first, as in numpy.
    kind: how it is quantised.
    offset: of its first byte in the file.
  """

  shape: tuple[int, ...]
  kind: gguf.GGMLQuantizationType
  offset: int

  @property
  def byte_shape(self) -> tuple[int, int]:
    """Rows, and bytes in one."""
    block, size = gguf.GGML_QUANT_SIZES[self.kind]
    return math.prod(self.shape[:-1]), self.shape[-1] // block * size


@dataclasses.dataclass(frozen=True)
class Header:
  """A file's metadata, most lists left out, and its tensors by name."""

  metadata: dict[str, Any]
  tensors: dict[str, Entry]


def read(path: str, lists: Sequence[str] = ()) -> Header:
  """Reads a file's header.

  Args:
    path: the file.
    lists: keys of the metadata's lists that are read, not stepped over.

  Returns:
    Its header.

  Raises:
    ConfigError: the file is missing, no little-endian GGUF of version 2 or 3,
      or ends before its last tensor does.
  """
  if not os.path.isfile(path):
    raise errors.ConfigError(path, 'no such file', legal='a GGUF file')
  with open(path, 'rb') as f:
    magic = f.read(4)
    if magic != b'GGUF':
      raise errors.ConfigError(
        path, f'starts with {magic!r}', legal="a GGUF file (b'GGUF')"
      )
    try:
      version = _scalar(f, 'I')
      if version not in (2, 3):
        raise errors.ConfigError(
          path, f'GGUF version {version}', legal='2 or 3, little-endian'
        )
      header = _fields(f, lists)
    except (struct.error, ValueError, MemoryError, OverflowError) as e:
      raise errors.ConfigError(
        path,
        f'is damaged or cut short near byte {f.tell()} ({e})',
        legal='a whole GGUF file',
      ) from e
  end = max(
    (e.offset + math.prod(e.byte_shape) for e in header.tensors.values()),
    default=0,
  )
  if os.path.getsize(path) < end:
    raise errors.ConfigError(
      path,
      f'has {os.path.getsize(path)} bytes but its tensors end at {end}',
      legal='a whole GGUF file',
    )
  return header


def _fields(f: BinaryIO, lists: Sequence[str]) -> Header:
  tensor_count, field_count = _scalar(f, 'Q'), _scalar(f, 'Q')
  metadata = {}
  for _ in range(field_count):
    key = _string(f)
    kind = _Type(_scalar(f, 'I'))
    if kind == _Type.ARRAY and key not in lists:
      _skip_array(f)
    else:
      metadata[key] = _value(f, kind)
  found = []
  for _ in range(tensor_count):
    name = _string(f)
    dims = [_scalar(f, 'Q') for _ in range(_scalar(f, 'I'))]
    kind = gguf.GGMLQuantizationType(_scalar(f, 'I'))
    found.append((name, tuple(reversed(dims)), kind, _scalar(f, 'Q')))
  align = gguf.GGUF_DEFAULT_ALIGNMENT
  if 'general.alignment' in metadata:
    align = metadata['general.alignment']
  start = -(-f.tell() // align) * align
  return Header(
    metadata,
    {n: Entry(shape, kind, start + at) for n, shape, kind, at in found},
  )


def _take(f: BinaryIO, count: int) -> bytes:
  raw = f.read(count)
  if len(raw) < count:
    raise ValueError(f'{count} bytes wanted, {len(raw)} left')
  return raw


def _scalar(f: BinaryIO, code: str) -> Any:
  return struct.unpack(f'<{code}', _take(f, struct.calcsize(f'<{code}')))[0]


def _string(f: BinaryIO) -> str:
  return _take(f, _scalar(f, 'Q')).decode('utf-8')


def _value(f: BinaryIO, kind: _Type) -> Any:
  if kind == _Type.STRING:
    return _string(f)
  if kind != _Type.ARRAY:
    return _scalar(f, _FORMATS[kind])
  item, count = _Type(_scalar(f, 'I')), _scalar(f, 'Q')
  if item not in _FORMATS:
    return [_value(f, item) for _ in range(count)]
  code = f'<{count}{_FORMATS[item]}'
  return list(struct.unpack(code, _take(f, struct.calcsize(code))))


def _skip_array(f: BinaryIO) -> None:
  kind, count = _Type(_scalar(f, 'I')), _scalar(f, 'Q')
  if kind in _FORMATS:
    f.seek(count * struct.calcsize(f'<{_FORMATS[kind]}'), os.SEEK_CUR)
    return
  for _ in range(count):
    if kind == _Type.STRING:
      f.seek(_scalar(f, 'Q'), os.SEEK_CUR)
    else:
      _skip_array(f)
