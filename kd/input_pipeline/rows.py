"""Prepared rows by step: any step at any time, without TensorFlow."""

from collections.abc import Iterator, Sequence
from concurrent import futures
import hashlib

import grain
import numpy as np

from kd.core import errors
from kd.core import types
from kd.input_pipeline import packing
from kd.input_pipeline import prepared


class _Part:
  """A prepared task as a random-access source of rows with their ids."""

  def __init__(self, part: prepared.Prepared):
    self._source = grain.sources.ArrayRecordDataSource(part.rows_file)
    self._first = part.first_row_id

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    row = packing.from_bytes(self._source[index])
    row['row_id'] = np.int32(self._first + index)
    return row


class Rows:
  """The training rows: `rows(step)`, a pure function of (seed, step).

  Every task goes through all its rows in one order before it begins again in
  another; a mixture draws from its tasks by their rates.
  """

  def __init__(
    self,
    parts: Sequence[prepared.Prepared],
    batch_size: int,
    seed: int,
    shuffle: bool,
  ):
    """Opens the files.

    Args:
      parts: what `prepare.prepare` returned.
      batch_size: rows a step over all processes, B.
      seed: chooses the order.
      shuffle: False keeps the files' order in every epoch.

    Raises:
      ConfigError: the batch size is not positive.
    """
    if batch_size < 1:
      raise errors.ConfigError(
        'data.batch_size', str(batch_size), legal='1 or more'
      )
    self.batch_size = batch_size
    datasets = [_dataset(part, seed, shuffle) for part in parts]
    if len(datasets) == 1:
      self._rows = datasets[0]
    else:
      self._rows = grain.MapDataset.mix(datasets, [p.rate for p in parts])

  def __call__(
    self, step: int, process_index: int = 0, process_count: int = 1
  ) -> types.Batch:
    """The rows of a step, or one process's share of them.

    Args:
      step: number of updates already applied, from 0.
      process_index: which share.
      process_count: number of shares; laid end to end they are the whole batch.

    Returns:
      numpy arrays, B / process_count rows.

    Raises:
      ConfigError: the batch does not divide into the shares.
    """
    share, rest = divmod(self.batch_size, process_count)
    if rest:
      raise errors.ConfigError(
        'data.batch_size',
        f'{self.batch_size} rows do not divide over {process_count} processes',
        legal=f'a multiple of {process_count}',
      )
    first = step * self.batch_size + process_index * share
    return _batch([self._rows[i] for i in range(first, first + share)])


def _dataset(
  part: prepared.Prepared, seed: int, shuffle: bool
) -> grain.MapDataset:
  """A task's rows without end."""
  dataset = grain.MapDataset.source(_Part(part))
  if shuffle and len(dataset) > 1:
    # grain seeds epoch e with seed + e, so that neighbouring seeds would share
    # their orders: spread them.
    digest = hashlib.sha256(f'{seed}:{part.task}'.encode()).digest()
    dataset = dataset.shuffle(seed=int.from_bytes(digest[:4], 'big'))
  return dataset.repeat()


def _batch(rows: Sequence[dict[str, np.ndarray]]) -> types.Batch:
  return types.Batch(
    **{
      name: np.stack([row[name] for row in rows])
      for name in (*packing.FIELDS, 'row_id')
    }
  )


def batches(
  parts: Sequence[prepared.Prepared], batch_size: int
) -> Iterator[types.Batch]:
  """Every row once, in the files' order, for evaluation.

  Args:
    parts: what `prepare.prepare` returned.
    batch_size: rows a batch, B.

  Yields:
    Batches; the last is filled up with rows of padding, whose row_id is -1.
  """
  waiting = []
  for part in parts:
    source = _Part(part)
    for index in range(len(source)):
      waiting.append(source[index])
      if len(waiting) == batch_size:
        yield _batch(waiting)
        waiting = []
  if waiting:
    padding = packing.empty(parts[0].length, parts[0].pad_id)
    padding['row_id'] = np.int32(-1)
    yield _batch(waiting + [padding] * (batch_size - len(waiting)))


def prefetch(
  rows: Rows,
  start_step: int,
  depth: int,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[types.Batch]:
  """Batches of start_step, start_step + 1, ..., read ahead on a thread.

  Args:
    rows: where from.
    start_step: the first step.
    depth: how many steps to read ahead, 1 or more.
    process_index: as for `Rows`.
    process_count: as for `Rows`.

  Yields:
    What `rows(step)` returns, without end; an error there comes up here.
  """
  with futures.ThreadPoolExecutor(1, 'rows') as pool:
    ahead = [
      pool.submit(rows, start_step + i, process_index, process_count)
      for i in range(depth)
    ]
    step = start_step + depth
    try:
      while True:
        batch = ahead.pop(0).result()
        ahead.append(pool.submit(rows, step, process_index, process_count))
        step += 1
        yield batch
    finally:
      for future in ahead:
        future.cancel()
