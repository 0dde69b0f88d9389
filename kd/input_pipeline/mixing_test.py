"""Rates of mixtures in different units, over many rows."""

import collections

import numpy as np
import pytest

from kd.input_pipeline import mixing
from kd.input_pipeline import prepared
from kd.input_pipeline import retry

# (rate, examples of each row, target tokens of each row)
_TASKS = {
  'long': (2.0, [1, 1, 1, 2], [500.0, 480.0, 510.0, 400.0]),
  'short': (1.0, [14, 16, 15], [90.0, 100.0, 95.0]),
  'middle': (1.0, [4, 5, 3, 4, 4, 5, 3], [200.0] * 7),
}


def _part(name):
  rate, examples, tokens = _TASKS[name]
  counts = {
    'rows': len(examples),
    'examples': sum(examples) + 2,
    'too_long': 2,  # Not in any row.
    'target_weight': sum(tokens),
  }
  retry_policy = retry.RetryPolicy(1, 0.0, 1.0)
  return prepared.Prepared(
    name, '', rate, 0, 512, 0, counts, {}, retry_policy, False
  )


@pytest.mark.parametrize('unit', mixing.UNITS)
def test_rates_hold_over_many_rows(unit):
  parts = [_part(name) for name in _TASKS]
  order = mixing.Order(mixing.row_shares(parts, unit))
  rows = 60_000
  seen = {u: collections.Counter() for u in mixing.UNITS}
  for number in range(rows):
    task, index = order[number]
    name = parts[task].task
    _, examples, tokens = _TASKS[name]
    at = index % len(examples)
    seen['rows'][name] += 1
    seen['examples'][name] += examples[at]
    seen['tokens'][name] += tokens[at]
    if number < 1000:  # Each task's rows come in order, none twice.
      assert index == seen['rows'][name] - 1
  shares = {
    u: {name: count / sum(seen[u].values()) for name, count in seen[u].items()}
    for u in mixing.UNITS
  }
  assert shares[unit] == pytest.approx(
    {'long': 0.5, 'short': 0.25, 'middle': 0.25}, rel=1e-3
  )
  described = mixing.describe(parts, unit, rows)
  for name, one in described.items():
    for u in mixing.UNITS:
      assert one[u] == pytest.approx(shares[u][name], rel=1e-3)
    count = seen['rows'][name] / len(_TASKS[name][1])
    assert one['epochs'] == pytest.approx(count, rel=1e-3)
  (head, line, *_) = mixing.lines(described, unit)
  assert f'fractions of {unit}' in head
  assert f'long: rate 50.0%, {shares["rows"]["long"]:.1%} of rows' in line


def test_rates_hold_from_the_first_row():
  shares = [0.6, 0.2, 0.2]
  order = mixing.Order(shares)
  counts = np.zeros(3)
  for number in range(1, 1001):
    counts[order[number - 1][0]] += 1
    assert np.abs(counts - number * np.asarray(shares)).max() < 2
  assert counts.tolist() == [600, 200, 200]
  # Also after a trillion rows, since there is no state and no rounding.
  far = [order[10**12 + i] for i in range(5)]
  assert sorted(task for task, _ in far) == [0, 0, 0, 1, 2]
  assert {index for task, index in far if task == 1} == {10**12 // 5}
