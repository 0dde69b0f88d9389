"""Computes the values of alarms, in Prometheus and within a server.

A server has the same samples as Prometheus, one instance of them, so the two
values are equal but for two extrapolations of rate(): it scales all counters by
one factor, which divides out, and ignores the first value of a new counter,
which is an increase from 0 here.
"""

import abc
from collections.abc import Mapping, Sequence
import dataclasses
import math
import re

# Labels and values by name, as in a scrape.
Samples = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]
# Part of a scrape that a measure needs.
Reading = Mapping[str, float]


class Measure(abc.ABC):
  """A value over a window of time."""

  @abc.abstractmethod
  def promql(self, window_s: int) -> str:
    """Returns the PromQL expression of the value."""

  @abc.abstractmethod
  def read(self, samples: Samples) -> Reading:
    """Returns what `over` needs of a scrape."""

  @abc.abstractmethod
  def over(self, readings: Sequence[Reading]) -> float:
    """Returns the value over a window; NaN without data.

    Args:
      readings: readings within the window, oldest first; one or more.
    """


@dataclasses.dataclass(frozen=True)
class Quantile(Measure):
  """A quantile of a histogram's observations.

  Attributes:
    quantile: the quantile, from 0 to 1.
    histogram: name of the histogram.
  """

  quantile: float
  histogram: str

  def promql(self, window_s: int) -> str:
    """See Measure."""
    counts = _rate(f'{self.histogram}_bucket', window_s, ' by (le) ')
    return f'histogram_quantile({self.quantile:g}, {counts})'

  def read(self, samples: Samples) -> Reading:
    """See Measure."""
    counts = {}
    for labels, value in samples.get(f'{self.histogram}_bucket', ()):
      counts[labels['le']] = counts.get(labels['le'], 0.0) + value
    return counts

  def over(self, readings: Sequence[Reading]) -> float:
    """See Measure."""
    counts = _increase(readings)
    rank = self.quantile * counts.get('+Inf', 0.0)
    if not rank:
      return math.nan
    below, start = 0.0, 0.0
    for label in sorted(counts, key=float):
      end, count = float(label), counts[label]
      if count >= rank:
        # The last bucket has no end.
        inside = (rank - below) / (count - below)
        return start if end == math.inf else start + (end - start) * inside
      below, start = count, end
    return math.nan


@dataclasses.dataclass(frozen=True)
class Share(Measure):
  """The increase of one counter divided by that of another.

  Attributes:
    part: name of the counter in the numerator.
    whole: name of the counter in the denominator.
    code: regular expression that label `code` of the part matches; '': any.
  """

  part: str
  whole: str
  code: str = ''

  def promql(self, window_s: int) -> str:
    """See Measure."""
    labels = f'{{code=~"{self.code}"}}' if self.code else ''
    part = _rate(self.part + labels, window_s)
    return f'({part} or vector(0)) / {_rate(self.whole, window_s)}'

  def read(self, samples: Samples) -> Reading:
    """See Measure."""
    part = sum(
      value
      for labels, value in samples.get(self.part, ())
      if not self.code or re.fullmatch(self.code, labels['code'])
    )
    whole = sum(value for _, value in samples.get(self.whole, ()))
    return {'part': part, 'whole': whole}

  def over(self, readings: Sequence[Reading]) -> float:
    """See Measure."""
    counts = _increase(readings)
    return counts['part'] / counts['whole'] if counts['whole'] else math.nan


@dataclasses.dataclass(frozen=True)
class Mean(Measure):
  """The mean of a gauge, summed over its labels, in the fullest instance.

  Attributes:
    gauge: name of the gauge.
    unit: value that counts as 1.
  """

  gauge: str
  unit: float

  def promql(self, window_s: int) -> str:
    """See Measure."""
    mean = f'avg_over_time({self.gauge}[{window_s}s])'
    return f'max(sum by (instance) ({mean})) / {self.unit:g}'

  def read(self, samples: Samples) -> Reading:
    """See Measure."""
    values = [value for _, value in samples.get(self.gauge, ())]
    return {'sum': sum(values)} if values else {}

  def over(self, readings: Sequence[Reading]) -> float:
    """See Measure."""
    sums = [x['sum'] for x in readings if x]
    return sum(sums) / len(sums) / self.unit if sums else math.nan


@dataclasses.dataclass(frozen=True)
class Peak(Measure):
  """The maximum of a gauge as a share of its limit, for any labels.

  Attributes:
    gauge: name of the gauge.
    limit: name of the gauge of the limit, which has the same labels.
  """

  gauge: str
  limit: str

  def promql(self, window_s: int) -> str:
    """See Measure."""
    return f'max(max_over_time({self.gauge}[{window_s}s]) / {self.limit})'

  def read(self, samples: Samples) -> Reading:
    """See Measure."""
    limits = {
      frozenset(labels.items()): value
      for labels, value in samples.get(self.limit, ())
    }
    shares = [
      value / limits[frozenset(labels.items())]
      for labels, value in samples.get(self.gauge, ())
    ]
    return {'share': max(shares)} if shares else {}

  def over(self, readings: Sequence[Reading]) -> float:
    """See Measure."""
    return max((x['share'] for x in readings if x), default=math.nan)


def _rate(series: str, window_s: int, by: str = '') -> str:
  return f'sum{by}(rate({series}[{window_s}s]))'


def _increase(readings: Sequence[Reading]) -> dict[str, float]:
  """Returns the increase of counters, which begin at 0."""
  first, last = readings[0], readings[-1]
  return {key: value - first.get(key, 0.0) for key, value in last.items()}
