"""Finds and reads the parts of a GGUF model split into several files.

`llama-gguf-split` and `gguf.GGUFWriter` name part 2 of 3 of a model
`NAME-00002-of-00003.gguf`. Each part is a GGUF file with some of the tensors,
its index (`split.no`, from 0), the number of parts (`split.count`) and the
number of the model's tensors (`split.tensors.count`). The first part has all
other metadata.
"""

from collections.abc import Sequence
import dataclasses
import os
import re

from kd.checkpoints import gguf_header
from kd.core import errors

_NAME = re.compile(
  r'(?P<name>.*)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.gguf'
)
_KEYS = ('split.no', 'split.count', 'split.tensors.count')
_MERGE = 'join the parts with `llama-gguf-split --merge FIRST_PART OUTPUT`'


def read(path: str, lists: Sequence[str] = ()) -> gguf_header.Header:
  """Reads the header of a model from its only file or from all of its parts.

  Args:
    path: path of the file or of any part; all parts are in one folder.
    lists: keys of the metadata lists to read; the others are skipped.

  Returns:
    The first part's metadata and the tensors of all parts.

  Raises:
    ConfigError: as for gguf_header.read, or a part is missing or belongs to
      another model.
  """
  header = gguf_header.read(path, lists)
  count = _number(header, 'split.count')
  if count is None or count in (0, 1):  # llama.cpp writes 0 after merging.
    return header
  files = _files(path, header, count)
  parts = [
    header if file == path else gguf_header.read(file, lists) for file in files
  ]
  expected = [_number(header, key) for key in _KEYS]
  tensors = {}
  for number, (file, part) in enumerate(zip(files, parts, strict=True)):
    expected[0] = number
    _check_part(file, part, expected, path)
    for name, entry in part.tensors.items():
      if name in tensors:
        raise errors.ConfigError(
          file,
          f'contains tensor {name[:80]!r}, as does {tensors[name].file}',
          legal='parts of one model',
        )
      tensors[name] = entry
  if len(tensors) != expected[-1]:
    raise errors.ConfigError(
      path,
      f'the {count} parts contain {len(tensors)} tensors, but {_KEYS[-1]} is '
      f'{expected[-1]}',
      legal='parts of one model',
    )
  return dataclasses.replace(parts[0], tensors=tensors)


def _number(header: gguf_header.Header, key: str) -> int | None:
  return header.metadata[key] if key in header.metadata else None


def _files(path: str, header: gguf_header.Header, count: int) -> list[str]:
  """Returns the paths of all parts, including `path`."""
  folder, base = os.path.split(path)
  number = _number(header, 'split.no')
  part = '?' if number is None else number + 1
  what = f'is part {part} of {count} of a split model'
  match = _NAME.fullmatch(base)
  if not match or int(match['count']) != count:
    raise errors.ConfigError(
      path,
      f'{what}, but the names of the others cannot be derived from its name',
      legal=f'a name such as model-00001-of-{count:05d}.gguf for each part, or '
      f'one file: {_MERGE}',
    )
  names = [
    f'{match["name"]}-{i + 1:05d}-of-{count:05d}.gguf' for i in range(count)
  ]
  missing = [
    name for name in names if not os.path.isfile(os.path.join(folder, name))
  ]
  if missing:
    raise errors.ConfigError(
      path,
      f'{what}; missing: {errors.first_of(missing)}',
      legal='all parts in one folder',
    )
  return [os.path.join(folder, name) for name in names]


def _check_part(
  file: str,
  part: gguf_header.Header,
  expected: Sequence[int | None],
  path: str,
) -> None:
  """Raises ConfigError unless a part belongs to the model in `path`."""
  for key, value in zip(_KEYS, expected, strict=True):
    actual = _number(part, key)
    if actual != value or value is None:
      raise errors.ConfigError(
        file,
        f'{key} is {actual}, expected {value} for this part of the model in '
        f'{os.path.basename(path)}',
        legal='parts of one model under their own names',
      )
