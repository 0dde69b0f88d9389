"""Reads Parquet files and the Arrow files of Hugging Face data sets."""

from collections.abc import Iterator
from typing import Any

from kd.core import errors
from kd.data_files import json_rows

_BATCH = 256  # rows at a time


def read_parquet(path: str, bad: json_rows.Bad) -> Iterator[json_rows.Row]:
  """Yields 'FILE: row N', with N from 1, and the row as a dict.

  Args:
    path: the file.
    bad: called with the error of each invalid row.

  Raises:
    ConfigError: the file is damaged.
  """
  import pyarrow
  from pyarrow import parquet

  def batches():
    with parquet.ParquetFile(path) as file:
      yield from file.iter_batches(batch_size=_BATCH)

  return _rows(path, batches, bad, pyarrow.ArrowException)


def read_arrow(path: str, bad: json_rows.Bad) -> Iterator[json_rows.Row]:
  """Yields the rows of an Arrow stream or file; see `read_parquet`."""
  import pyarrow

  def batches():
    with pyarrow.memory_map(path) as source:
      try:
        reader = pyarrow.ipc.open_stream(source)
      except pyarrow.ArrowInvalid:
        source.seek(0)
        reader = pyarrow.ipc.open_file(source)
        yield from map(reader.get_batch, range(reader.num_record_batches))
        return
      yield from reader

  return _rows(path, batches, bad, pyarrow.ArrowException)


def _rows(path, batches, bad, damage) -> Iterator[json_rows.Row]:
  number = 0
  try:
    for batch in batches():
      for begin in range(0, batch.num_rows, _BATCH):
        for row in _dicts(batch.slice(begin, _BATCH)):
          number += 1
          where = f'{path}: row {number}'
          if isinstance(row, UnicodeDecodeError):
            bad(errors.ConfigError(where, f'is not UTF-8: {row}', legal='text'))
          else:
            yield where, {k: _without_nulls(x) for k, x in row.items()}
  except damage as e:
    raise errors.ConfigError(
      path, f'is damaged: {e}', legal='a complete file'
    ) from e


def _without_nulls(value: Any) -> Any:
  """Returns a value without the null entries of nested dicts.

  Arrow gives all dicts of a column the same keys, with null for missing ones.
  """
  if isinstance(value, dict):
    return {k: _without_nulls(x) for k, x in value.items() if x is not None}
  return [*map(_without_nulls, value)] if isinstance(value, list) else value


def _dicts(batch: Any) -> list[dict[str, Any] | UnicodeDecodeError]:
  """Returns the rows of a batch, or an error for each that is not UTF-8.

  Arrow does not validate text until it is converted.
  """
  try:
    return batch.to_pylist()
  except UnicodeDecodeError as e:
    if batch.num_rows == 1:
      return [e]
    return [
      row for i in range(batch.num_rows) for row in _dicts(batch.slice(i, 1))
    ]
