"""Prepared rows by step: any step at any time, without TensorFlow."""

import bisect
from collections.abc import Iterable, Iterator, Sequence
import hashlib
import itertools

import grain
import numpy as np

from kd.core import errors
from kd.core import types
from kd.input_pipeline import mixing
from kd.input_pipeline import packing
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import retry
from kd.input_pipeline import shard_files


class _TaskRows:
  """A prepared task as a random-access sequence of rows with their ids."""

  def __init__(self, task_rows: prepared_lib.Prepared):
    """Opens the first file; the others are opened when they are first read.

    Raises:
      ConfigError: it is damaged.
      ReadError: the disk fails.
    """
    self._prepared = task_rows
    self._files = task_rows.files(shard_files.ROWS)
    counts = [shard['rows'] for shard in task_rows.counts['shards']]
    # The number of the last row of each file, plus 1.
    self._ends = list(itertools.accumulate(counts))
    self._readers: dict[int, grain.sources.ArrayRecordDataSource] = {}
    self._reader(bisect.bisect_right(self._ends, 0))

  def _reader(self, number):
    if number not in self._readers:
      file = self._files[number]
      self._readers[number] = self._read(
        file,
        'opening it',
        lambda: grain.sources.ArrayRecordDataSource(file),
      )
    return self._readers[number]

  def _read(self, file, what, call):
    try:
      return self._prepared.retry_policy.read(f'{file}: {what}', call)
    except retry.DamagedError as e:
      raise errors.ConfigError(
        file,
        f'is damaged: {e}',
        legal='the file as it was written; delete its folder to prepare the '
        'rows again',
      ) from e

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    number = bisect.bisect_right(self._ends, index)
    first = self._ends[number - 1] if number else 0
    source = self._reader(number)
    row = self._read(
      self._files[number],
      f'row {index}',
      lambda: packing.from_bytes(retry.record(source, index - first)),
    )
    row['row_id'] = np.int32(self._prepared.first_row_id + index)
    return row


def first(task_rows: prepared_lib.Prepared, count: int) -> list[dict]:
  """Returns the first rows of a task, as packing.from_bytes has them."""
  part = _TaskRows(task_rows)
  return [part[i] for i in range(min(count, len(part)))]


class Rows:
  """The training rows: `rows(step)`, a pure function of (seed, step).

  Every task goes through all its rows in one order before it begins again in
  another; a mixture draws from its tasks by their rates (mixing.py).
  """

  def __init__(
    self,
    prepared: Sequence[prepared_lib.Prepared],
    batch_size: int,
    seed: int,
    shuffle: bool,
    rates: str,
  ):
    """Opens the files.

    Args:
      prepared: what `prepare.prepare` returned.
      batch_size: rows a step over all processes, B.
      seed: chooses the order.
      shuffle: False keeps the files' order in every epoch.
      rates: what a mixture's rates are shares of, one of mixing.UNITS.

    Raises:
      ConfigError: the batch size is not positive.
    """
    if batch_size < 1:
      raise errors.ConfigError(
        'data.batch_size', str(batch_size), legal='1 or more'
      )
    self.batch_size = batch_size
    self._datasets = [
      _dataset(task_rows, seed, shuffle) for task_rows in prepared
    ]
    self._order = mixing.Order(mixing.row_shares(prepared, rates))

  def __call__(self, step: int, numbers: Iterable[int]) -> types.Batch:
    """Rows of a step; no others are read.

    Args:
      step: number of updates already applied, from 0.
      numbers: which rows of the batch, from 0 to B - 1.

    Returns:
      numpy arrays of these rows, in their order.
    """
    first = step * self.batch_size
    places = [self._order[first + int(i)] for i in numbers]
    return _batch([self._datasets[task][index] for task, index in places])


def _dataset(
  task_rows: prepared_lib.Prepared, seed: int, shuffle: bool
) -> grain.MapDataset:
  """A task's rows without end."""
  dataset = grain.MapDataset.source(_TaskRows(task_rows))
  if shuffle and len(dataset) > 1:
    # grain seeds epoch e with seed + e, so that neighbouring seeds would share
    # their orders: spread them.
    digest = hashlib.sha256(f'{seed}:{task_rows.task}'.encode()).digest()
    dataset = dataset.shuffle(seed=int.from_bytes(digest[:4], 'big'))
  return dataset.repeat()


def _batch(rows: Sequence[dict[str, np.ndarray]]) -> types.Batch:
  return types.Batch(
    **{
      name: np.stack([row[name] for row in rows])
      for name in (*packing.FIELDS, 'row_id')
    }
  )


class Numbered:
  """Rows by their row_id."""

  def __init__(self, prepared: Sequence[prepared_lib.Prepared]):
    """Opens the files.

    Args:
      prepared: what `prepare.prepare` returned.
    """
    self._tasks = [_TaskRows(task_rows) for task_rows in prepared]
    self._ends = list(itertools.accumulate(map(len, self._tasks)))
    self._padding = packing.empty(prepared[0].length, prepared[0].pad_id)
    self._padding['row_id'] = np.int32(-1)

  def __len__(self) -> int:
    return self._ends[-1]

  def __call__(self, numbers: Iterable[int]) -> types.Batch:
    """Numpy arrays of these rows, in their order; -1 is a row of padding."""
    return _batch([self._row(int(number)) for number in numbers])

  def _row(self, number):
    if number < 0:
      return self._padding
    part = bisect.bisect_right(self._ends, number)
    return self._tasks[part][number - (self._ends[part - 1] if part else 0)]


def batches(
  prepared: Sequence[prepared_lib.Prepared],
  batch_size: int,
  numbers: Sequence[int],
) -> Iterator[types.Batch]:
  """Every row once, in the files' order, for evaluation.

  There are as many batches on every process, whatever its rows are.

  Args:
    prepared: what `prepare.prepare` returned.
    batch_size: rows a batch, B.
    numbers: which rows of each batch, from 0 to B - 1; no others are read.

  Yields:
    These rows of each batch; the last batch is filled up with rows of padding,
    whose row_id is -1.
  """
  rows = Numbered(prepared)
  for first in range(0, len(rows), batch_size):
    wanted = [first + int(i) for i in numbers]
    yield rows(n if n < len(rows) else -1 for n in wanted)
