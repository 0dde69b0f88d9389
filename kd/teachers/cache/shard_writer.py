"""Writes the scores of rows to the shards of a cache."""

from collections.abc import Sequence

import numpy as np

from kd.core import errors
from kd.core import types
from kd.teachers.cache import compression
from kd.teachers.cache import records
from kd.teachers.cache import scoring
from kd.teachers.cache import shards


class ShardWriter:
  """Writes consecutive shards from rows in order."""

  def __init__(
    self,
    folder: str,
    wanted: Sequence[shards.Shard],
    method: compression.Method,
    vocab_size: int,
    teachers: Sequence[str],
    cache_digest: str,
  ):
    """Initializes the writer.

    Args:
      folder: the cache's folder.
      wanted: the shards; rows are added in this order.
      method: the compression method.
      vocab_size: V.
      teachers: names of the teachers in error messages.
      cache_digest: digest from manifest.cache_digest.
    """
    self._cache_digest = cache_digest
    self._teachers = teachers
    self._folder, self._wanted = folder, list(wanted)
    self._method, self._vocab_size = method, vocab_size
    self._writer = None

  def add(self, batch: types.Batch, scored: scoring.Scored, at: int) -> None:
    """Writes one row.

    Args:
      batch: numpy arrays.
      scored: the batch's scores, numpy arrays.
      at: index of the row in the batch.

    Raises:
      NonFiniteError: a teacher's logits are not finite.
    """
    if self._writer is None:
      self._shard = self._wanted.pop(0)
      self._writer = shards.Writer(self._folder, self._shard)
      self._sums = dict.fromkeys(shards.SUMS, 0.0)
      self._counts = dict.fromkeys(shards.COUNTS, 0)
      self._left = self._shard.rows
    row = row_of(batch, scored, at)
    finite = scored.finite[at][row.counted].all(axis=0)
    named = zip(self._teachers, finite, strict=True)
    bad = [name for name, is_finite in named if not is_finite]
    if bad or not np.isfinite(row.log_normalizer).all():
      raise errors.NonFiniteError(
        f'row {batch.row_id[at]}: the logits of '
        f'{" and of ".join(bad or self._teachers)} are NaN or infinite'
      )
    self._writer.write(
      records.encode(row, self._method, self._vocab_size, self._cache_digest)
    )
    self._count(row, scored.entropy[at], scored.dropped_mass[at])
    self._left -= 1
    if not self._left:
      self._writer.finish({**self._sums, **self._counts})
      self._writer = None

  def _count(self, row, entropy, dropped_mass):
    entries = row.entries if row.entries is not None else np.zeros(1, int)
    self._counts['positions'] += len(row.target_logprob)
    self._counts['entries'] += int(entries.sum())
    self._counts['most_entries'] = max(
      self._counts['most_entries'], int(entries.max(initial=0))
    )
    tail = row.tail_logprob
    sums = {
      'nll': -row.target_logprob,
      'entropy': entropy[row.counted],
      'tail_mass': np.zeros(0) if tail is None else np.exp(tail),
      'dropped_mass': dropped_mass[row.counted],
    }
    for name, values in sums.items():
      self._sums[name] += float(np.sum(values, dtype=np.float64))


def row_of(
  batch: types.Batch, scored: scoring.Scored, at: int
) -> records.RecordedRow:
  """Returns a row's scores in the form of its record.

  Args:
    batch: numpy arrays.
    scored: the batch's scores, numpy arrays.
    at: index of the row in the batch.
  """
  counted = batch.weights[at] != 0
  compressed = scored.compressed
  of = lambda x: None if x is None else x[at][counted]
  entries = ids = logprobs = counts = None
  if compressed.ids is not None:
    ids, used = of(compressed.ids), of(compressed.ids) >= 0
    entries = used.sum(axis=1, dtype=np.int32)
    ids = ids[used].astype(np.uint32)
    logprobs = of(compressed.logprobs)[used]
    counts = None if compressed.counts is None else of(compressed.counts)[used]
  return records.RecordedRow(
    digest=records.digest_of(batch, at),
    counted=counted,
    target_logprob=of(scored.target_logprob),
    log_normalizer=of(scored.log_normalizer),
    entries=entries,
    ids=ids,
    logprobs=logprobs,
    counts=counts,
    tail_logprob=of(compressed.tail_logprob),
    entropy=of(scored.entropy) if compressed.ids is None else None,
    hidden=of(compressed.hidden),
    log_rest=of(compressed.log_rest),
  )
