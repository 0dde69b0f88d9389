"""Tests for records of rows."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

from kd.core import types
from kd.input_pipeline import packing
from kd.teachers.cache import compression
from kd.teachers.cache import records

V = 300


def _row(rng, *, n=37, length=50, draws=0, hidden=0, most=20):
  counted = np.zeros(length, bool)
  counted[rng.choice(length, n, replace=False)] = True
  common = dict(
    digest=bytes(range(8)),
    counted=counted,
    target_logprob=-rng.exponential(3, n).astype(np.float32),
    log_normalizer=rng.normal(20, 5, n).astype(np.float32),
  )
  if hidden:
    values = (rng.normal(size=(n, hidden)) * 30).astype(np.float32)
    values[0] = 0
    none = dict.fromkeys(
      ('entries', 'ids', 'logprobs', 'counts', 'tail_logprob')
    )
    entropy = rng.exponential(2, n).astype(np.float32)
    return records.RecordedRow(**common, **none, entropy=entropy, hidden=values)
  entries = rng.integers(1, most, n).astype(np.int32)
  ids = [np.sort(rng.choice(V, k, replace=False)) for k in entries]
  whole = rng.dirichlet(np.full(V, 0.05), n) + 1e-12
  whole /= whole.sum(1, keepdims=True)
  logprobs = [np.log(p[i]) for p, i in zip(whole, ids, strict=True)]
  tail = [
    np.log(np.delete(p, i).sum()) for p, i in zip(whole, ids, strict=True)
  ]
  counts = rng.integers(1, draws, entries.sum()) if draws else None
  return records.RecordedRow(
    **common,
    entries=entries,
    ids=np.concatenate(ids).astype(np.uint32),
    logprobs=np.concatenate(logprobs).astype(np.float32),
    counts=counts,
    tail_logprob=None if draws else np.array(tail, np.float32),
    entropy=None,
    hidden=None,
  )


def _through_bytes(row, method):
  return records.decode(records.encode(row, method, V, 'a'), method, V, 'a')


def _by_position(row, values):
  return np.split(values, np.cumsum(row.entries)[:-1])


@pytest.mark.parametrize('stored_as', ['uint8', 'float16'])
def test_kept_ids_and_tail_are_read_as_a_distribution(stored_as):
  method = compression.Method('top_k', stored_as, 20, 1.0, 0)
  row = _row(np.random.default_rng(0))
  found = _through_bytes(row, method)
  assert found.digest == row.digest
  for name in ('counted', 'entries', 'ids', 'log_normalizer'):
    np.testing.assert_array_equal(getattr(found, name), getattr(row, name))
  np.testing.assert_allclose(
    found.target_logprob, row.target_logprob, rtol=2**-11
  )
  for logprobs, tail in zip(
    _by_position(found, found.logprobs), found.tail_logprob, strict=True
  ):
    total = np.exp(logprobs.astype(np.float64)).sum() + np.exp(float(tail))
    assert abs(total - 1) < 1e-5
  # Twice half a level: from the code, and from the normalization.
  lowest = [x.min() for x in _by_position(row, row.logprobs)]
  share = 1 / 250 if stored_as == 'uint8' else 2**-10
  for was, now, low in zip(
    _by_position(row, row.logprobs),
    _by_position(found, found.logprobs),
    lowest,
    strict=True,
  ):
    assert (np.abs(now - was) <= -2 * low * share + 1e-3).all()


@pytest.mark.parametrize('draws', [50, 255, 256, 4000])
def test_drawn_ids_keep_their_counts(draws):
  method = compression.Method('sampled', 'uint8', draws, 1.0, draws)
  row = _row(np.random.default_rng(1), draws=draws)
  row.counts[0] = draws  # All draws of a position are the same id.
  found = _through_bytes(row, method)
  np.testing.assert_array_equal(found.counts, row.counts)
  np.testing.assert_array_equal(found.ids, row.ids)
  assert found.tail_logprob is None


def test_only_ids_that_were_not_drawn_are_normalized():
  """The tail includes the mass of drawn ids, which would count twice."""
  method = compression.Method('stratified', 'float16', 20, 1.0, 4)
  row = _row(np.random.default_rng(5), draws=5)
  counts = row.counts * (np.arange(len(row.counts)) % 3 == 0)
  kept = _by_position(row, np.exp(row.logprobs) * (counts == 0))
  tail = np.log1p(-np.array([x.sum() for x in kept])).astype(np.float32)
  row = dataclasses.replace(row, counts=counts, tail_logprob=tail)
  found = _through_bytes(row, method)
  np.testing.assert_allclose(found.logprobs, row.logprobs, rtol=2**-9)
  np.testing.assert_allclose(found.tail_logprob, tail, rtol=2**-9, atol=1e-3)
  np.testing.assert_array_equal(found.counts, counts)


def test_a_digest_depends_on_everything_in_a_row():
  rng = np.random.default_rng(6)
  ones = np.ones((2, 6), np.int32)
  batch = types.Batch(
    tokens=rng.integers(9, size=(2, 6), dtype=np.int32),
    targets=rng.integers(9, size=(2, 6), dtype=np.int32),
    positions=ones * np.arange(6, dtype=np.int32),
    segment_ids=ones,
    parts=0 * ones,
    weights=ones.astype(np.float32),
    row_id=np.arange(2, dtype=np.int32),
  )
  digests = {records.digest_of(batch, 1)}
  for name in packing.FIELDS:
    changed = np.array(getattr(batch, name))
    changed[1, 4] += 1
    digests.add(records.digest_of(batch.replace(**{name: changed}), 1))
  assert len(digests) == 1 + len(packing.FIELDS)
  # It does not depend on the row's index or the other rows of the batch.
  reverse = jax.tree.map(lambda x: x[::-1], batch)
  assert records.digest_of(reverse, 0) in digests


def test_decoded_hidden_states_are_within_half_a_step():
  row = _row(np.random.default_rng(2), hidden=24)
  for stored_as in ('bfloat16', 'int8'):
    method = compression.Method('hidden', stored_as, 0, 1.0, 0)
    found = _through_bytes(row, method)
    error = np.abs(found.hidden.astype(np.float32) - row.hidden)
    if stored_as == 'int8':
      step = np.abs(row.hidden).max(1, keepdims=True) / 127
      assert (error <= step / 2 * 1.001).all()
      assert (error > step * 0.4).any()
    else:
      exact = row.hidden.astype(ml_dtypes.bfloat16).astype(np.float32)
      np.testing.assert_array_equal(found.hidden.astype(np.float32), exact)
    np.testing.assert_allclose(found.entropy, row.entropy, rtol=2**-10)


def test_a_row_without_targets_has_a_record():
  rng = np.random.default_rng(3)
  for method, kind in (
    (compression.Method('top_k', 'uint8', 20, 1.0, 0), {}),
    (compression.Method('hidden', 'int8', 0, 1.0, 0), {'hidden': 8}),
  ):
    row = _row(rng, n=1, **kind)
    cut = {
      name: value[:0]
      for name, value in vars(row).items()
      if isinstance(value, np.ndarray) and name != 'counted'
    }
    empty = records.RecordedRow(
      **{**vars(row), **cut, 'counted': row.counted * False}
    )
    found = _through_bytes(empty, method)
    assert not found.counted.any() and not len(found.target_logprob)


def test_flipped_bits_and_truncation_are_detected():
  method = compression.Method('top_k', 'uint8', 20, 1.0, 0)
  data = records.encode(_row(np.random.default_rng(4), n=3), method, V, 'a')
  for at in range(len(data)):
    flipped = bytearray(data)
    flipped[at] ^= 1 << (at % 8)
    with pytest.raises(records.DamagedError):
      records.decode(bytes(flipped), method, V, 'a')
    with pytest.raises(records.DamagedError):
      records.decode(data[:at], method, V, 'a')


def test_a_record_of_another_cache_is_refused():
  method = compression.Method('top_k', 'uint8', 20, 1.0, 0)
  data = records.encode(_row(np.random.default_rng(4)), method, V, 'a')
  with pytest.raises(
    records.DamagedError, match='not that of a record of this'
  ):
    records.decode(data, method, V, 'b')
