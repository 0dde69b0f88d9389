"""Converts rows to the teacher's input: other tokenization, or prefixes."""

from collections.abc import Sequence

import numpy as np

from kd.core import errors
from kd.core import types
from kd.input_pipeline import prefixes as prefixes_lib
from kd.input_pipeline import retokenizing


class TeacherRows:
  """Adds the teacher's tokens to batches.

  The examples of a row keep their order in the teacher's row. An example that
  does not fit there is left out, and its targets do not belong to any span.
  """

  def __init__(
    self,
    retokenizer: retokenizing.Retokenizer,
    length: int,
    pad_id: int,
    prefixes: prefixes_lib.Prefixes | None = None,
    by_position: bool = False,
  ):
    """Initializes the conversion.

    Args:
      retokenizer: converts the student's ids.
      length: M, number of positions of the teacher's rows.
      pad_id: id of unused positions.
      prefixes: prefixes of examples, inserted after BOS.
      by_position: whether to pair positions at which both begin a token,
        instead of spans.
    """
    self._retokenizer, self._prefixes = retokenizer, prefixes
    self._by_position = by_position
    self._length, self._pad_id = length, pad_id

  def __call__(self, batch: types.Batch) -> types.Batch:
    """Returns a batch of numpy arrays with the field `teacher`."""
    rows = [self._row(batch, i) for i in range(len(batch.row_id))]
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    *fields, spans, own_spans, indices = columns
    pair = (None, None, indices) if self._by_position else (spans, own_spans)
    return batch.replace(teacher=types.TeacherTokens(*fields, *pair))

  def positions(self, batch: types.Batch) -> list[int]:
    """Returns the number of positions that each row of a batch needs."""
    rows = range(len(batch.row_id))
    return [
      sum(
        max(len(text.ids) - 1, 0) for _, text in self._texts(batch, i) if text
      )
      for i in rows
    ]

  def _texts(self, batch, index):
    """Yields the slice of each example of a row, and its text or None."""
    prefix_of = self._prefixes and self._prefixes(batch, index)
    for place in _segments(batch.segment_ids[index]):
      following = batch.targets[index, place]
      ids = np.append(batch.tokens[index, place][:1], following)
      text = self._retokenizer(ids)
      if text is not None and prefix_of:
        segment = int(batch.segment_ids[index, place.start])
        text = self._retokenizer.after(text, prefix_of(segment))
      yield place, text

  def _row(self, batch: types.Batch, index: int) -> Sequence[np.ndarray]:
    """Returns the fields of types.TeacherTokens for a row, with indices."""
    fields = np.zeros((5, self._length), np.int32)
    tokens, targets, positions, segment_ids, spans = fields
    tokens[:] = targets[:] = self._pad_id
    own_spans = np.zeros(batch.tokens.shape[1], np.int32)
    indices = np.full(batch.tokens.shape[1], -1, np.int32)
    begin, count = 0, 0
    for segment, (place, text) in enumerate(self._texts(batch, index), 1):
      if text is None or not len(text.ids):
        continue
      if begin + len(text.ids) - 1 > self._length:
        continue
      here = slice(begin, begin + len(text.ids) - 1)
      tokens[here], targets[here] = text.ids[:-1], text.ids[1:]
      positions[here] = np.arange(len(text.ids) - 1)
      segment_ids[here] = segment
      if self._by_position:
        own, there = _beginnings(text)
        indices[place.start + own - 1] = begin + there - 1
      else:
        counted = _counted(text, batch.weights[index, place])
        for spans_, there, where in (
          (text.spans, spans, here),
          (text.student_spans, own_spans, place),
        ):
          number = np.searchsorted(counted, spans_[1:])
          is_counted = np.isin(spans_[1:], counted)
          there[where] = np.where(is_counted, number + 1 + count, 0)
        count += len(counted)
      begin = here.stop
    return *fields, own_spans, indices


class PrefixedRows:
  """Adds a teacher's rows, with a prefix before each example, to batches.

  Both models share a tokenizer. The examples of a row keep their order in the
  teacher's row. An example that does not fit there has no indices.
  """

  def __init__(
    self,
    prefixes: prefixes_lib.Prefixes,
    bos_id: int | None,
    length: int,
    pad_id: int,
    all_fit: bool = False,
  ):
    """Initializes the conversion.

    Args:
      prefixes: prefixes of examples, inserted after BOS.
      bos_id: BOS id of the tokenizer, None if it has none.
      length: M, number of positions of the teacher's rows.
      pad_id: id of unused positions.
      all_fit: whether an example that does not fit raises ConfigError.
    """
    self._all_fit = all_fit
    self._prefixes, self._bos_id = prefixes, bos_id
    self._length, self._pad_id = length, pad_id

  def __call__(self, batch: types.Batch) -> types.Batch:
    """Returns a batch of numpy arrays with the field `teacher`."""
    rows = [self._row(batch, i) for i in range(len(batch.row_id))]
    columns = (np.stack(column) for column in zip(*rows, strict=True))
    *fields, indices = columns
    teacher = types.TeacherTokens(*fields, None, None, indices)
    return batch.replace(teacher=teacher)

  def positions(self, batch: types.Batch) -> list[int]:
    """Returns the number of positions that each row of a batch needs."""
    return [
      sum(len(tokens) for _, tokens, _ in self._examples(batch, i))
      for i in range(len(batch.row_id))
    ]

  def _examples(self, batch, index):
    """Yields each example's slice, the teacher's tokens and their targets."""
    prefix_of = self._prefixes(batch, index)
    for place in _segments(batch.segment_ids[index]):
      tokens = batch.tokens[index, place]
      last = batch.targets[index, place][-1:]
      prefix = prefix_of(int(batch.segment_ids[index, place.start]))
      begin = int(tokens[0] == self._bos_id)
      parts = tokens[:begin], prefix, tokens[begin:], last
      ids = np.concatenate(parts).astype(np.int32)
      yield place, ids[:-1], ids[1:]

  def _row(self, batch: types.Batch, index: int) -> Sequence[np.ndarray]:
    """Returns the first four fields of types.TeacherTokens and the indices."""
    fields = np.zeros((4, self._length), np.int32)
    tokens, targets, positions, segment_ids = fields
    tokens[:] = targets[:] = self._pad_id
    indices = np.full(batch.tokens.shape[1], -1, np.int32)
    begin = 0
    for segment, (place, ids, following) in enumerate(
      self._examples(batch, index), 1
    ):
      end = begin + len(ids)
      if end > self._length:
        if self._all_fit:
          raise errors.ConfigError(
            'teacher.length',
            f"found {self._length}, but the teacher's row "
            f'{batch.row_id[index]} needs at least {end} positions',
            legal=f'{end} or more',
          )
        continue
      tokens[begin:end], targets[begin:end] = ids, following
      positions[begin:end] = np.arange(len(ids))
      segment_ids[begin:end] = segment
      # The example's last positions, since the prefix follows BOS.
      count = place.stop - place.start
      indices[place] = np.arange(end - count, end)
      begin = end
    return *fields, indices


def _segments(ids: np.ndarray) -> list[slice]:
  """Returns the slice of each packed example of a row."""
  starts = np.flatnonzero(np.diff(ids, prepend=0) > 0)
  # Truncated to starts, since a row of padding has no examples.
  ends = [*starts[1:], np.count_nonzero(ids)][: len(starts)]
  return [slice(*pair) for pair in zip(starts, ends, strict=True)]


def _beginnings(
  text: retokenizing.Retokenized,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the indices of the student's and the teacher's first ids of spans.

  The first ids of a text are left out, since they are not predicted.
  """
  own, own_at = np.unique(text.student_spans, return_index=True)
  spans, at = np.unique(text.spans, return_index=True)
  _, first, second = np.intersect1d(own, spans, return_indices=True)
  is_span = own[first] != retokenizing.NO_SPAN
  own_at, at = own_at[first][is_span], at[second][is_span]
  is_predicted = (own_at > 0) & (at > 0)
  return own_at[is_predicted], at[is_predicted]


def _counted(text: retokenizing.Retokenized, weights: np.ndarray) -> np.ndarray:
  """Returns the spans that count, in ascending order.

  All of the student's targets in them have a weight, and both models predict
  all of their tokens, which excludes the first token of a text.

  Args:
    text: a text with n + 1 ids of the student.
    weights: float32 [n], weights of the targets.
  """
  cut = [text.spans[0], text.student_spans[0]]
  cut = np.append(cut, text.student_spans[1:][weights == 0])
  return np.setdiff1d(text.student_spans, np.append(cut, retokenizing.NO_SPAN))
