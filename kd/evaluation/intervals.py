"""Computes confidence intervals by the paired bootstrap over examples.

All quantities are functions of weighted means m = sum(w_i v_i) / sum(w_i) over
the same n examples. For an NLL in nats per token, v is the example's NLL per
token and w its number of tokens; for an exact match, v is in {0, 1} and w = 1.
A resample draws n examples with replacement, the same ones for every model, so
that an example that is hard for all models does not affect differences. The
interval is between the (1 - level) / 2 and (1 + level) / 2 quantiles of the
resampled quantity (Efron 1979, percentile method). Examples of weight 0 are
dropped.
"""

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

SEED = 0
RESAMPLES = 2000
LEVEL = 0.95
# Two-sided Student's t at LEVEL, from 1 degree of freedom up.
_STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
# Examples drawn at once, over all resamples, to bound the memory.
_DRAWS = 1 << 22


@dataclasses.dataclass(frozen=True)
class Interval:
  """A value with its confidence interval.

  Attributes:
    value: the value over the examples, without resampling.
    low: the lower bound.
    high: the upper bound.
  """

  value: float
  low: float
  high: float

  def map(self, increasing: Callable[[float], float]) -> 'Interval':
    """Returns the interval of an increasing function of the value."""
    return Interval(
      *(float(increasing(x)) for x in (self.value, self.low, self.high))
    )


@dataclasses.dataclass(frozen=True)
class GapShare:
  """The share of the gap between baseline and teacher that was closed.

  Attributes:
    interval: the share: 1 is as good as the teacher, 0 as the baseline; None if
      there is no gap.
    reason: the reason why there is no share, otherwise ''.
  """

  interval: Interval | None
  reason: str


def mean(
  values: Sequence[float], weights: Sequence[float] | None = None
) -> Interval:
  """Returns the interval of a weighted mean.

  Args:
    values: [n], scores by example.
    weights: [n], weights of the examples; None: all equal.

  Returns:
    The interval at LEVEL.

  Raises:
    ValueError: lengths differ, a number is not finite, a weight is negative, or
      no example has weight.
  """
  return _interval([values], weights, lambda m: m[0])


def difference(
  values: Sequence[float],
  others: Sequence[float],
  weights: Sequence[float] | None = None,
) -> Interval:
  """Returns the paired interval of mean(values) - mean(others)."""
  return _interval([values, others], weights, lambda m: m[0] - m[1])


def ratio(
  values: Sequence[float],
  others: Sequence[float],
  weights: Sequence[float] | None = None,
) -> Interval | None:
  """Returns the interval of mean(values) / mean(others).

  Resamples in which the mean of `others` is 0 are dropped.

  Args:
    values: [n], numerator by example.
    others: [n], denominator by example.
    weights: [n], weights of the examples; None: all equal.

  Returns:
    The ratio; None if the mean of `others` is 0.
  """
  if not np.average(others, weights=weights):
    return None
  return _interval(
    [values, others],
    weights,
    lambda m: m[0] / np.where(m[1] == 0, np.nan, m[1]),
  )


def sum_of_magnitudes(
  columns: Sequence[Sequence[float]], weights: Sequence[float] | None = None
) -> Interval:
  """Returns the interval of the sum over columns of |mean(column)|."""
  return _interval(columns, weights, lambda m: np.abs(m).sum(axis=0))


def with_spread(interval: Interval, *groups: Sequence[float]) -> Interval:
  """Widens an interval over examples by the variation between seeds.

  The half-widths add in quadrature: that of the interval and, for each group of
  runs, Student's t times the standard error of the group's mean. A group with a
  single run adds nothing.

  Args:
    interval: interval over examples of a difference of means over runs.
    *groups: one value per run, for runs that differ only in their seed.
  """
  variance = 0.0
  for runs in groups:
    n = len(runs)
    if n > 1:
      t = _STUDENT_T[min(n - 1, len(_STUDENT_T)) - 1]
      variance += (t * np.std(runs, ddof=1)) ** 2 / n
  if not variance:
    return interval
  wider = lambda half: float(np.sqrt(half**2 + variance))
  return Interval(
    interval.value,
    interval.value - wider(interval.value - interval.low),
    interval.value + wider(interval.high - interval.value),
  )


def gap_share(
  student: Sequence[float],
  baseline: Sequence[float],
  teacher: Sequence[float],
  weights: Sequence[float] | None = None,
) -> GapShare:
  """Returns the interval of (student - baseline) / (teacher - baseline).

  The formula holds for losses as well as for scores. If the interval of
  teacher - baseline contains 0, the denominators of resampled shares have both
  signs and the shares are meaningless. There is no gap then.

  Args:
    student: [n], scores of the distilled student by example.
    baseline: [n], scores of the student trained without the teacher.
    teacher: [n], scores of the teacher.
    weights: [n], weights of the examples; None: all equal.

  Returns:
    The share, or the reason why there is none.

  Raises:
    ValueError: as for `mean`.
  """
  gap = difference(teacher, baseline, weights)
  if gap.value == 0:
    return GapShare(None, 'teacher and baseline are equal')
  if gap.low <= 0 <= gap.high:
    return GapShare(
      None,
      f'teacher - baseline is {gap.value:.4g}, which is not distinguishable'
      f' from 0 ({gap.low:.4g} to {gap.high:.4g})',
    )
  share = _interval(
    [student, baseline, teacher],
    weights,
    lambda m: (m[0] - m[1]) / (m[2] - m[1]),
  )
  return GapShare(share, '')


def _interval(columns, weights, function) -> Interval:
  """Returns the interval of a function of means [C] or [C, resamples]."""
  values, weights = _checked(columns, weights)
  value = function(values @ weights / np.sum(weights))
  tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
  # The share of a resample without a gap is infinite or NaN.
  with np.errstate(divide='ignore', invalid='ignore'):
    resampled = function(_resampled_means(values, weights))
  low, high = np.nanquantile(resampled, tails)
  return Interval(float(value), float(low), float(high))


def _checked(columns, weights):
  """Returns float64 [C, n] and weights [n] > 0; raises ValueError if bad."""
  lengths = {len(column) for column in columns}
  if weights is not None:
    lengths.add(len(weights))
  if len(lengths) != 1:
    raise ValueError(f'numbers of examples differ: {sorted(lengths)}')
  values = np.asarray(columns, np.float64)
  if weights is None:
    weights = np.ones(values.shape[1])
  weights = np.asarray(weights, np.float64)
  if not np.all(np.isfinite(weights)) or np.any(weights < 0):
    raise ValueError('a weight is negative or not finite')
  values, weights = values[:, weights > 0], weights[weights > 0]
  if not weights.size:
    raise ValueError('no example has weight')
  if not np.all(np.isfinite(values)):
    column, example = np.argwhere(~np.isfinite(values))[0]
    raise ValueError(
      f'value {example} of column {column} is {values[column, example]}'
    )
  return values, weights


def _resampled_means(values, weights):
  """Returns means [C, RESAMPLES], with the same draws for every column."""
  rng = np.random.default_rng(SEED)
  n = weights.size
  at_once = max(1, _DRAWS // n)
  means = []
  for start in range(0, RESAMPLES, at_once):
    count = min(at_once, RESAMPLES - start)
    drawn = rng.integers(n, size=(count, n))
    sums = np.stack([(v * weights)[drawn].sum(axis=1) for v in values])
    means.append(sums / weights[drawn].sum(axis=1))
  return np.concatenate(means, axis=1)
