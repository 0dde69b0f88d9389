"""The order is a pure function of (seed, step), without TensorFlow."""

import collections
from concurrent import futures
import functools
import os
import subprocess
import sys
import types

from array_record.python import array_record_module
import numpy as np
import pytest

from kd.core import errors
from kd.input_pipeline import packing
from kd.input_pipeline import prepared
from kd.input_pipeline import read_ahead
from kd.input_pipeline import retry
from kd.input_pipeline import rows as rows_lib

PATIENCE = retry.RetryPolicy(attempts=1, wait_s=0.0, timeout_s=60.0)


def _part(folder, name, count, rate=1.0, first=0):
  """Returns prepared rows in which row i contains the ids i + 1, i + 2."""
  writer = array_record_module.ArrayRecordWriter(
    os.path.join(folder, f'{name}-00000.array_record'), 'group_size:1'
  )
  for i in range(count):
    example = packing.Example(
      np.array([i + 1, i + 2]), np.ones(2), np.ones(2), i
    )
    writer.write(packing.to_bytes(packing.fill([example], 4, 0)))
  writer.close()
  counts = {'rows': count, 'shards': [{'rows': count}]}
  return prepared.Prepared(
    name, str(folder), rate, first, 4, 0, counts, {}, PATIENCE, False
  )


def _ids(rows, steps):
  return [int(i) for step in steps for i in _whole(rows, step).row_id]


def _whole(rows, step):
  return rows(step, range(rows.batch_size))


@pytest.fixture
def hundred(tmp_path):
  return [_part(tmp_path, 'a', 100)]


def test_resumed_runs_read_each_row_once(hundred):
  straight = _ids(rows_lib.Rows(hundred, 1, 3, True, 'rows'), range(100))
  resumed = _ids(rows_lib.Rows(hundred, 1, 3, True, 'rows'), range(37)) + _ids(
    rows_lib.Rows(hundred, 1, 3, True, 'rows'), range(37, 100)
  )
  assert resumed == straight != sorted(straight)
  assert sorted(straight) == list(range(100))


def test_orders_differ_by_seed_and_epoch(hundred):
  orders = [
    _ids(
      rows_lib.Rows(hundred, 10, seed, True, 'rows'), range(10 * e, 10 * e + 10)
    )
    for seed in (0, 1)
    for e in (0, 1)
  ]
  # In particular, seed 1's first epoch differs from seed 0's second.
  assert len({tuple(order) for order in orders}) == 4
  assert all(sorted(order) == list(range(100)) for order in orders)
  plain = rows_lib.Rows(hundred, 10, 0, False, 'rows')
  assert _ids(plain, range(20)) == 2 * list(range(100))


def test_processes_divide_a_batch(hundred):
  rows = rows_lib.Rows(hundred, 12, 0, True, 'rows')
  whole = _whole(rows, 5)
  for count in (2, 3, 4):
    shares = [rows(5, part) for part in np.split(np.arange(12), count)]
    for name in (*packing.FIELDS, 'row_id'):
      joined = np.concatenate([getattr(s, name) for s in shares])
      np.testing.assert_array_equal(joined, getattr(whole, name))


def test_each_process_reads_only_its_rows(hundred, tmp_path):
  parts = [*hundred, _part(tmp_path, 'b', 3, 1.0, 100)]
  read = []

  def note(what, call):
    if 'row ' in what:  # Opening a file does not read rows.
      read.append(what.rpartition(' ')[2])
    return call()

  for part in parts:
    object.__setattr__(part, 'retry_policy', types.SimpleNamespace(read=note))
  rows_lib.Rows(hundred, 10, 0, False, 'rows')(0, [3, 7])
  assert read == ['3', '7']
  read.clear()
  shares = [list(rows_lib.batches(parts, 8, n)) for n in ([0, 1, 2], [7])]
  # 103 rows: the last batch ends at its seventh row.
  assert len(shares[0]) == len(shares[1]) == 13
  assert shares[1][-1].row_id.tolist() == [-1]
  assert len(read) == 3 * 13 + 12


def test_mixture_follows_its_rates(tmp_path):
  parts = [
    _part(tmp_path, 'a', 40, 3.0),
    _part(tmp_path, 'b', 7, 1.0, 40),
    _part(tmp_path, 'c', 1, 1.0, 47),
  ]
  rows = rows_lib.Rows(parts, 10, 0, True, 'rows')
  seen = _ids(rows, range(20))
  count = collections.Counter('abc'[(i >= 40) + (i >= 47)] for i in seen)
  assert count == {'a': 120, 'b': 40, 'c': 40}
  assert collections.Counter(i for i in seen if i < 40) == dict.fromkeys(
    range(40), 3
  )
  batch = _whole(rows, 3)
  assert batch.tokens.dtype == batch.row_id.dtype == np.int32
  local = np.where(
    batch.row_id >= 47, 0, batch.row_id - 40 * (batch.row_id >= 40)
  )
  np.testing.assert_array_equal(batch.tokens[:, 0], local + 1)


def test_reading_ahead_returns_the_same_rows(hundred):
  rows = rows_lib.Rows(hundred, 8, 0, True, 'rows')
  read = functools.partial(_whole, rows)
  ahead = read_ahead.ReadAhead(read, 4, 3, timeout_s=60.0)
  for step in range(4, 12):
    np.testing.assert_array_equal(ahead.get(60.0).tokens, read(step).tokens)
  ahead.close()


def test_the_last_batch_is_padded(tmp_path):
  parts = [_part(tmp_path, 'a', 5), _part(tmp_path, 'b', 2, 1.0, 5)]
  batches = list(rows_lib.batches(parts, 4, range(4)))
  assert [b.row_id.tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, -1]]
  last = batches[-1]
  assert last.weights.sum() == last.parts.sum() == 3
  for name in packing.FIELDS:
    assert not getattr(last, name)[3].any()


def _damaged(whole, kind, number):
  """Returns the bytes of a file, damaged in one of many ways."""
  data = bytearray(whole)
  if kind == 'flip':  # Most of a small file is padding, which is never read.
    used = [i for i, byte in enumerate(whole) if byte]
    data[used[number * len(used) // 60]] ^= 1 << number % 8
  elif kind == 'cut':
    del data[number * len(data) // 60 :]
  elif kind == 'zeros':
    at = number * 40
    data[at : at + 40] = bytes(40)
  return bytes(data)


@pytest.mark.parametrize('kind', ['flip', 'cut', 'zeros', 'removed'])
def test_damaged_rows_are_refused_with_the_file_name(kind, hundred, tmp_path):
  file = tmp_path / 'a-00000.array_record'
  whole = file.read_bytes()

  def read():
    rows = rows_lib.Rows(hundred, 100, 0, False, 'rows')
    return _whole(rows, 0)

  expected, refused = read(), 0
  with futures.ThreadPoolExecutor(1) as pool:
    for number in range(60):
      if kind == 'removed':
        file.unlink(missing_ok=True)
      else:
        file.write_bytes(_damaged(whole, kind, number))
      # A hanging read fails the test.
      attempt = pool.submit(read)
      error = attempt.exception(timeout=60)
      if error is None:
        for name in packing.FIELDS:
          np.testing.assert_array_equal(
            getattr(attempt.result(), name), getattr(expected, name)
          )
        continue
      refused += 1
      assert isinstance(error, errors.ConfigError), error
      assert str(file) in str(error) and 'prepare the rows again' in str(error)
  assert refused > 20


def test_a_new_process_reads_the_same_order_without_tensorflow(
  hundred, tmp_path
):
  code = (
    'import sys\n'
    'from kd.input_pipeline import prepare, prepared, rows, tokenizers\n'
    'from kd.input_pipeline import retry\n'
    f'part = prepared.Prepared("a", {str(tmp_path)!r}, 1.0, 0, 4, 0, '
    '{"shards": [{"rows": 100}]}, '
    '{}, retry.RetryPolicy(1, 0.0, 60.0), False)\n'
    'order = rows.Rows([part], 2, 0, True, "rows")\n'
    'steps = [order(step, [0, 1]).row_id for step in range(37, 60)]\n'
    'print([int(i) for ids in steps for i in ids])\n'
    'tokenizers.load("bytes").encode("x")\n'
    'heavy = {"tensorflow", "seqio", "tensorflow_datasets"}\n'
    'sys.exit(len(heavy & set(sys.modules)))\n'
  )
  environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
  found = subprocess.check_output(
    [sys.executable, '-c', code], env=environment, text=True
  )
  wanted = _ids(rows_lib.Rows(hundred, 2, 0, True, 'rows'), range(37, 60))
  assert found == f'{wanted}\n'
