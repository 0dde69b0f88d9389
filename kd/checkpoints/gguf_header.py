"""Reads the header of a GGUF file: its metadata and its tensors' offsets.

`gguf.GGUFReader` creates an array for each string of the vocabulary, which
takes 9 s for Gemma's 262,144. This reader skips lists that are not requested
and takes a fraction of a second. Each length is first compared with the number
of remaining bytes, so that a damaged file can neither fill the memory nor make
the reader loop.
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


_MOST_DIMENSIONS = 4  # As in ggml.
_INTEGERS = (
  'general.alignment',
  'split.count',
  'split.no',
  'split.tensors.count',
)


@dataclasses.dataclass(frozen=True)
class Entry:
  """A tensor's file, offset, shape and type.

  Attributes:
    file: path of the file that contains the tensor.
    shape: shape, outermost dimension first, as in numpy.
    kind: quantization type.
    offset: offset of the tensor in the file, in bytes.
  """

  file: str
  shape: tuple[int, ...]
  kind: gguf.GGMLQuantizationType
  offset: int

  @property
  def byte_shape(self) -> tuple[int, int]:
    """Returns the number of rows, and of bytes per row."""
    block, size = gguf.GGML_QUANT_SIZES[self.kind]
    return math.prod(self.shape[:-1]), self.shape[-1] // block * size


@dataclasses.dataclass(frozen=True)
class Header:
  """A file's metadata without skipped lists, and its tensors by name."""

  metadata: dict[str, Any]
  tensors: dict[str, Entry]


class _Damaged(Exception):
  """The file has no valid GGUF header; `read` adds the file's name."""


class _Stream:
  """Reads values from a file with possibly invalid lengths."""

  def __init__(self, file: BinaryIO, size: int):
    # Calling file.tell() twice for each of 262,144 tokens would take longer
    # than reading them.
    self._file, self._size, self._position = file, size, file.tell()

  def tell(self) -> int:
    return self._position

  def require(self, count: int) -> None:
    """Raises _Damaged unless at least `count` bytes are left."""
    left = self._size - self._position
    if count > left:
      raise _Damaged(f'{count} bytes wanted, {left} left')

  def take(self, count: int) -> bytes:
    self.require(count)
    self._position += count
    return self._file.read(count)

  def skip(self, count: int) -> None:
    self.require(count)
    self._position += count
    self._file.seek(count, os.SEEK_CUR)

  def scalar(self, code: str) -> Any:
    return struct.unpack(f'<{code}', self.take(struct.calcsize(f'<{code}')))[0]

  def string(self) -> str:
    return self.take(self.scalar('Q')).decode('utf-8')


def read(path: str, lists: Sequence[str] = ()) -> Header:
  """Reads a file's header.

  Args:
    path: path of the file.
    lists: keys of the metadata lists to read; the others are skipped.

  Returns:
    The header.

  Raises:
    ConfigError: the file is missing, is not a little-endian GGUF of version 2
      or 3, or is damaged or truncated.
  """
  if not os.path.isfile(path):
    raise errors.ConfigError(path, 'no such file', legal='a GGUF file')
  size = os.path.getsize(path)
  with open(path, 'rb') as f:
    magic = f.read(4)
    if magic != b'GGUF':
      raise errors.ConfigError(
        path, f'starts with {magic!r}', legal="a GGUF file (b'GGUF')"
      )
    try:
      stream = _Stream(f, size)
      version = stream.scalar('I')
      if version not in (2, 3):
        raise errors.ConfigError(
          path, f'GGUF version {version}', legal='2 or 3, little-endian'
        )
      header = _fields(stream, path, lists)
    # Unknown types and text that is not UTF-8 are ValueErrors.
    except (_Damaged, ValueError, RecursionError) as e:
      raise errors.ConfigError(
        path,
        f'is damaged or cut short near byte {f.tell()} ({e})',
        legal='a whole GGUF file',
      ) from e
  end = max(
    (e.offset + math.prod(e.byte_shape) for e in header.tensors.values()),
    default=0,
  )
  if size < end:
    raise errors.ConfigError(
      path,
      f'has {size} bytes but its tensors end at {end}',
      legal='a whole GGUF file',
    )
  return header


def _fields(stream: _Stream, path: str, lists: Sequence[str]) -> Header:
  tensor_count, field_count = stream.scalar('Q'), stream.scalar('Q')
  metadata = {}
  for _ in range(field_count):
    key = stream.string()
    kind = _Type(stream.scalar('I'))
    if kind == _Type.ARRAY and key not in lists:
      _skip_array(stream)
    else:
      metadata[key] = _value(stream, kind)
  for key in _INTEGERS:
    if key in metadata and type(metadata[key]) is not int:
      raise _Damaged(f'{key} is {metadata[key]!r}')
  entries = {}
  for _ in range(tensor_count):
    name, entry = _entry(stream, path)
    if name in entries:
      raise _Damaged(f'two tensors named {name[:80]!r}')
    entries[name] = entry
  align = gguf.GGUF_DEFAULT_ALIGNMENT
  if 'general.alignment' in metadata:
    align = metadata['general.alignment']
    if align <= 0:
      raise _Damaged(f'general.alignment is {align}')
  start = -(-stream.tell() // align) * align
  return Header(
    metadata,
    {
      name: dataclasses.replace(entry, offset=start + entry.offset)
      for name, entry in entries.items()
    },
  )


def _entry(stream: _Stream, path: str) -> tuple[str, Entry]:
  """Reads a tensor's name and entry, with the offset from the first tensor."""
  name, rank = stream.string(), stream.scalar('I')
  if not 1 <= rank <= _MOST_DIMENSIONS:
    raise _Damaged(f'tensor {name[:80]!r} has {rank} dimensions')
  shape = tuple(reversed([stream.scalar('Q') for _ in range(rank)]))
  kind = gguf.GGMLQuantizationType(stream.scalar('I'))
  block, _ = gguf.GGML_QUANT_SIZES[kind]
  if not all(shape) or shape[-1] % block:
    raise _Damaged(
      f'tensor {name[:80]!r} of type {kind.name} has shape {list(shape)}'
    )
  return name, Entry(path, shape, kind, stream.scalar('Q'))


def _value(stream: _Stream, kind: _Type) -> Any:
  if kind == _Type.STRING:
    return stream.string()
  if kind != _Type.ARRAY:
    return stream.scalar(_FORMATS[kind])
  item, count = _Type(stream.scalar('I')), stream.scalar('Q')
  if item not in _FORMATS:
    return [_value(stream, item) for _ in range(count)]
  code = _FORMATS[item]
  raw = stream.take(count * struct.calcsize(f'<{code}'))
  return list(struct.unpack(f'<{count}{code}', raw))


def _skip_array(stream: _Stream) -> None:
  kind, count = _Type(stream.scalar('I')), stream.scalar('Q')
  if kind in _FORMATS:
    stream.skip(count * struct.calcsize(f'<{_FORMATS[kind]}'))
    return
  for _ in range(count):
    if kind == _Type.STRING:
      stream.skip(stream.scalar('Q'))
    else:
      _skip_array(stream)
