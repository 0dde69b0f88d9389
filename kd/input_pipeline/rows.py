"""Reads the prepared rows of any step, without TensorFlow."""

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
import hashlib
import itertools
from typing import Any

import grain
import numpy as np

from kd.core import errors
from kd.core import types
from kd.images import form as form_lib
from kd.input_pipeline import image_rows
from kd.input_pipeline import image_tokens
from kd.input_pipeline import mixing
from kd.input_pipeline import packing
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import retry
from kd.input_pipeline import shard_files

ReadImages = Callable[
  [np.ndarray, Sequence[image_rows.Slots], form_lib.Form], types.Images
]


class _TaskRows:
  """A prepared task as a random-access sequence of rows with their ids."""

  def __init__(self, task_rows: prepared_lib.Prepared):
    """Opens the first file; other files are opened when they are first read.

    Raises:
      ConfigError: the file is damaged.
      ReadError: the disk fails.
    """
    self._prepared = task_rows
    self._files = task_rows.files(shard_files.ROWS)
    counts = [shard['rows'] for shard in task_rows.counts['shards']]
    # Index of the last row of each file, plus 1.
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
      lambda: self._decode(retry.record(source, index - first)),
    )
    row['row_id'] = np.int32(self._prepared.first_row_id + index)
    return row

  def _decode(self, record):
    images, prefixes = [], []
    if self._prepared.form:
      record, images = image_rows.from_bytes(record)
    if self._prepared.has_prefixes:
      record, prefixes = packing.split_texts(record)
    row = packing.from_bytes(record)
    return row | {'images': images, 'prefixes': prefixes}


def first(task_rows: prepared_lib.Prepared, count: int) -> list[dict]:
  """Returns the first rows of a task; see packing.from_bytes."""
  part = _TaskRows(task_rows)
  return [part[i] for i in range(min(count, len(part)))]


def each(
  prepared: Sequence[prepared_lib.Prepared],
) -> Iterator[dict[str, Any]]:
  """Yields all rows in the format of `first`, without decoding images."""
  for task_rows in prepared:
    part = _TaskRows(task_rows)
    yield from (part[i] for i in range(len(part)))


def images(task_rows: prepared_lib.Prepared) -> Iterator[image_tokens.Slot]:
  """Yields the images of a task's rows, row by row."""
  part = _TaskRows(task_rows)
  for number, count in enumerate(task_rows.images):
    if count:
      yield from part[number]['images']


class Rows:
  """Reads training rows as a pure function of (seed, step).

  Every task goes through all its rows in one order before it starts again in
  another order. A mixture draws from its tasks by their rates (mixing.py).
  """

  def __init__(
    self,
    prepared: Sequence[prepared_lib.Prepared],
    batch_size: int,
    seed: int,
    shuffle: bool,
    rates: str,
    read_images: ReadImages = image_rows.read,
  ):
    """Opens the files.

    Args:
      prepared: the result of `prepare.prepare`.
      batch_size: B, rows per step over all processes.
      seed: seed of the order.
      shuffle: whether to shuffle each epoch; False keeps the files' order.
      rates: unit of a mixture's rates, one of mixing.UNITS.
      read_images: returns a batch's images for its tokens, slots and form.

    Raises:
      ConfigError: the batch size is not positive.
    """
    if batch_size < 1:
      raise errors.ConfigError(
        'data.batch_size', str(batch_size), legal='1 or more'
      )
    self.batch_size, self._read_images = batch_size, read_images
    self._datasets = [
      _dataset(task_rows, seed, shuffle) for task_rows in prepared
    ]
    self._order = mixing.Order(mixing.row_shares(prepared, rates))
    self._pad_id, self._form = prepared[0].pad_id, _form(prepared)
    self._images = [
      _shuffled(task_rows.images, task_rows, seed, shuffle)
      for task_rows in prepared
      if self._form
    ]

  def __call__(self, step: int, numbers: Iterable[int]) -> types.Batch:
    """Reads only the given rows of a step.

    Args:
      step: number of updates already applied, from 0.
      numbers: indices of rows in the batch, from 0 to B - 1.

    Returns:
      The rows as numpy arrays, in the order of `numbers`.
    """
    first = step * self.batch_size
    if self._form:
      places = [self._order[first + i] for i in range(self.batch_size)]
      order = image_rows.spread([self._images[t][i] for t, i in places])
      places = [places[order[int(i)]] for i in numbers]
    else:
      places = [self._order[first + int(i)] for i in numbers]
    rows = [self._datasets[task][index] for task, index in places]
    return _batch(rows, self._form, self._pad_id, self._read_images)


def _dataset(
  task_rows: prepared_lib.Prepared, seed: int, shuffle: bool
) -> grain.MapDataset:
  """Returns an endless data set of a task's rows."""
  return _shuffled(_TaskRows(task_rows), task_rows, seed, shuffle)


def _shuffled(source, task_rows, seed, shuffle) -> grain.MapDataset:
  """Returns an endless data set of one value per row, in training order."""
  dataset = grain.MapDataset.source(source)
  if shuffle and len(dataset) > 1:
    # grain seeds epoch e with seed + e, so neighboring seeds would share their
    # orders; hashing spreads the seeds.
    digest = hashlib.sha256(f'{seed}:{task_rows.task}'.encode()).digest()
    dataset = dataset.shuffle(seed=int.from_bytes(digest[:4], 'big'))
  return dataset.repeat()


def _form(prepared: Sequence[prepared_lib.Prepared]) -> form_lib.Form | None:
  """Returns the form of the rows' images; None if there are none."""
  return next((part.form for part in prepared if any(part.images)), None)


def _batch(
  rows: Sequence[dict[str, Any]],
  form: form_lib.Form | None,
  pad_id: int,
  read_images: ReadImages = image_rows.read,
) -> types.Batch:
  fields = {
    name: np.stack([row[name] for row in rows])
    for name in (*packing.FIELDS, 'row_id')
  }
  if form is None:
    return types.Batch(**fields)
  images = read_images(fields['tokens'], [r['images'] for r in rows], form)
  # The model may have no logit for soft tokens. They have weight 0, so replace
  # them in the targets.
  is_soft = fields['targets'] == form.soft_id
  fields['targets'] = np.where(is_soft, np.int32(pad_id), fields['targets'])
  return types.Batch(**fields, images=images)


class Numbered:
  """Reads rows by row_id."""

  def __init__(self, prepared: Sequence[prepared_lib.Prepared]):
    """Opens the files.

    Args:
      prepared: the result of `prepare.prepare`.
    """
    self._tasks = [_TaskRows(task_rows) for task_rows in prepared]
    self._ends = list(itertools.accumulate(map(len, self._tasks)))
    self._padding = packing.empty(prepared[0].length, prepared[0].pad_id)
    self._padding |= {'row_id': np.int32(-1), 'images': [], 'prefixes': []}
    self._pad_id, self._form = prepared[0].pad_id, _form(prepared)

  def __len__(self) -> int:
    return self._ends[-1]

  def __call__(self, numbers: Iterable[int]) -> types.Batch:
    """Returns rows as numpy arrays in the given order; -1 for padding."""
    rows = [self._row(int(number)) for number in numbers]
    return _batch(rows, self._form, self._pad_id)

  def prefixes(self, number: int) -> list[str]:
    """Returns the prefix of each example of a row; [] for row -1.

    The rows must have been prepared with prefixes.
    """
    return self._row(number)['prefixes']

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
  """Yields every row once, in the files' order, for evaluation.

  All processes get the same number of batches.

  Args:
    prepared: the result of `prepare.prepare`.
    batch_size: B, rows per batch over all processes.
    numbers: indices of this process's rows in each batch, from 0 to B - 1; no
      other rows are read.

  Yields:
    These rows of each batch. The last batch is filled up with rows of padding,
    whose row_id is -1.
  """
  rows = Numbered(prepared)
  for first in range(0, len(rows), batch_size):
    wanted = [first + int(i) for i in numbers]
    yield rows(n if n < len(rows) else -1 for n in wanted)
