"""Compares the buffer of sampled rows with a list."""

import numpy as np

from kd.input_pipeline import packing
from kd.teachers import replay_buffer

_LENGTH = 5


def _row(number):
  fields = {name: np.full(_LENGTH, number, np.int32) for name in packing.FIELDS}
  fields['weights'] = np.full(_LENGTH, number / 8, np.float32)
  return replay_buffer.BufferedRow(fields, 100 + number, number // 2)


def _number(row):
  """Returns the number of a row of `_row`, and checks its fields."""
  number = row.row_id - 100
  assert row.sampled_at == number // 2
  for name, value in _row(number).fields.items():
    assert row.fields[name].dtype == value.dtype
    np.testing.assert_array_equal(row.fields[name], value)
  return number


def test_the_buffer_keeps_the_last_rows_and_draws_each_once():
  buffer, kept = replay_buffer.Buffer(4, _LENGTH), []
  draws = np.random.default_rng(0)
  assert buffer.draw(3, draws) == []
  for number in range(11):
    buffer.add(_row(number))
    kept = [*kept, number][-4:]
    everything = [_number(row) for row in buffer.draw(9, draws)]
    assert sorted(everything) == kept
    some = [_number(row) for row in buffer.draw(2, draws)]
    assert len(set(some)) == len(some) == min(2, len(kept))
    assert set(some) <= set(kept)


def test_draws_are_uniform():
  buffer, draws = replay_buffer.Buffer(4, _LENGTH), np.random.default_rng(1)
  for number in range(6):
    buffer.add(_row(number))
  counts = np.zeros(6)
  for _ in range(3000):
    for row in buffer.draw(2, draws):
      counts[_number(row)] += 1
  assert not counts[:2].any()
  # Chi-square with 3 degrees of freedom: above 16.3 once in a thousand.
  assert ((counts[2:] - 1500) ** 2 / 1500).sum() < 16.3


def test_loaded_buffers_continue_identically_without_sharing():
  one, other = (
    replay_buffer.Buffer(3, _LENGTH),
    replay_buffer.Buffer(3, _LENGTH),
  )
  for number in range(5):
    one.add(_row(number))
  state = one.state()
  other.load(state)
  for number in range(5, 7):
    one.add(_row(number))
    other.add(_row(number))
    found = [
      [_number(row) for row in b.draw(3, np.random.default_rng(number))]
      for b in (one, other)
    ]
    assert found[0] == found[1]
  again = replay_buffer.Buffer(3, _LENGTH)
  again.load(state)
  drawn = [_number(row) for row in again.draw(3, np.random.default_rng(0))]
  assert sorted(drawn) == [2, 3, 4]
