"""Tests intervals against all resamples and against formulas."""

import itertools

import numpy as np
import pytest
from scipy import stats

from kd.evaluation import intervals


def _enumerated(columns, weights, function):
  """Returns the interval over all n^n equally likely resamples, one by one."""
  n = len(weights)
  results = []
  for drawn in itertools.product(range(n), repeat=n):
    total = sum(weights[i] for i in drawn)
    means = [sum(c[i] * weights[i] for i in drawn) / total for c in columns]
    results.append(function(*means))
  results.sort()
  at = lambda share: results[round(share * (len(results) - 1))]
  return at(0.025), at(0.975)


WEIGHTS = [1.0, 4.0, 2.0, 3.0, 2.5]
STUDENT = [1.0, 2.0, 0.5, 3.0, 1.5]
BASELINE = [1.5, 2.2, 1.0, 4.0, 1.9]
TEACHER = [0.5, 1.1, 0.3, 2.0, 0.6]


def test_intervals_agree_with_enumerated_resamples():
  cases = [
    (intervals.mean(STUDENT, WEIGHTS), [STUDENT], lambda s: s),
    (
      intervals.difference(STUDENT, TEACHER, WEIGHTS),
      [STUDENT, TEACHER],
      lambda s, t: s - t,
    ),
    (
      intervals.gap_share(STUDENT, BASELINE, TEACHER, WEIGHTS).interval,
      [STUDENT, BASELINE, TEACHER],
      lambda s, b, t: (s - b) / (t - b),
    ),
    (
      intervals.ratio(STUDENT, TEACHER, WEIGHTS),
      [STUDENT, TEACHER],
      lambda s, t: s / t,
    ),
    (
      intervals.sum_of_magnitudes([STUDENT, BASELINE, TEACHER], WEIGHTS),
      [STUDENT, BASELINE, TEACHER],
      lambda s, b, t: abs(s) + abs(b) + abs(t),
    ),
  ]
  for found, columns, function in cases:
    low, high = _enumerated(columns, WEIGHTS, function)
    width = high - low
    assert found.low == pytest.approx(low, abs=0.08 * width)
    assert found.high == pytest.approx(high, abs=0.08 * width)
    value = function(*(np.average(c, weights=WEIGHTS) for c in columns))
    assert found.value == pytest.approx(value, rel=1e-12)


def test_intervals_of_many_examples_are_normal():
  values = np.random.default_rng(3).normal(5, 2, 4000)
  found = intervals.mean(values)
  half = 1.96 * values.std() / np.sqrt(4000)
  assert found.high - found.value == pytest.approx(half, rel=0.1)
  assert found.value - found.low == pytest.approx(half, rel=0.1)


def test_resamples_are_paired():
  hard = np.random.default_rng(4).normal(0, 10, 300)
  found = intervals.difference(hard + 1, hard)
  assert (found.low, found.high) == pytest.approx((1, 1))


def test_gap_closed_ignores_direction_and_is_exact_at_its_ends():
  losses = [np.asarray(x) for x in (STUDENT, BASELINE, TEACHER)]
  share = intervals.gap_share(*losses).interval
  assert share.value == pytest.approx(
    intervals.gap_share(*(-x for x in losses)).interval.value
  )
  _, baseline, teacher = losses
  same = intervals.gap_share(teacher, baseline, teacher).interval
  assert (same.value, same.low, same.high) == (1, 1, 1)
  none = intervals.gap_share(baseline, baseline, teacher).interval
  assert (none.value, none.low, none.high) == (0, 0, 0)


def test_a_missing_gap_has_a_reason():
  equal = intervals.gap_share(STUDENT, TEACHER, TEACHER)
  assert equal.interval is None and 'equal' in equal.reason
  noise = [t + d for t, d in zip(TEACHER, (0.5, -0.4, 0.3, -0.4, 0.1))]
  unclear = intervals.gap_share(STUDENT, noise, TEACHER)
  assert unclear.interval is None and 'distinguishable from 0' in unclear.reason


def test_examples_without_weight_change_nothing():
  found = intervals.mean(STUDENT + [float('nan')], WEIGHTS + [0.0])
  assert found == intervals.mean(STUDENT, WEIGHTS)


def test_the_memory_limit_changes_nothing(monkeypatch):
  whole = intervals.mean(STUDENT, WEIGHTS)
  monkeypatch.setattr(intervals, '_DRAWS', 64)
  assert intervals.mean(STUDENT, WEIGHTS) == whole


def test_map_transforms_the_bounds():
  found = intervals.Interval(0.0, -1.0, 2.0).map(np.exp)
  assert (found.value, found.low, found.high) == pytest.approx(
    (1, np.e**-1, np.e**2)
  )


@pytest.mark.parametrize(
  'values, weights, match',
  [
    ([1.0, 2.0], [1.0], 'differ'),
    ([1.0, 2.0], [1.0, -1.0], 'negative'),
    ([1.0, 2.0], [0.0, 0.0], 'no example'),
    ([], None, 'no example'),
    ([1.0, float('nan')], None, 'value 1 of column 0 is nan'),
  ],
)
def test_wrong_input_is_refused(values, weights, match):
  with pytest.raises(ValueError, match=match):
    intervals.mean(values, weights)


def test_intervals_over_seeds_follow_students_t():
  narrow = intervals.Interval(1.0, 0.5, 2.0)
  assert intervals.with_spread(narrow, [0.3], [0.4]) == narrow
  for runs in ([1.0, 1.2], [0.2, 0.9, 1.4, 1.1], list(range(10))):
    t = stats.t.ppf(0.975, len(runs) - 1)
    half = t * stats.sem(runs)
    alone = intervals.with_spread(intervals.Interval(1.0, 1.0, 1.0), runs)
    assert alone.high - 1 == pytest.approx(half, rel=1e-3)
    wider = intervals.with_spread(narrow, runs)
    assert 1 - wider.low == pytest.approx(np.hypot(0.5, half), rel=1e-3)
    assert wider.high - 1 == pytest.approx(np.hypot(1.0, half), rel=1e-3)
