"""Evaluates alarms within a server, as Prometheus does."""

import collections
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from kd.monitoring import measures
from kd.monitoring import rules


@dataclasses.dataclass(frozen=True)
class Change:
  """The start or end of an alarm.

  Attributes:
    alarm: the alarm.
    value: its value; NaN without data.
    is_on: whether the alarm starts.
  """

  alarm: rules.Alarm
  value: float
  is_on: bool

  @property
  def text(self) -> str:
    """Returns the message."""
    value = 'no data' if math.isnan(self.value) else f'{self.value:.3g}'
    text = self.alarm.summary(value)
    if self.is_on:
      return f'{self.alarm.name}: {text}; {self.alarm.advice}'
    return f'{self.alarm.name} has ended: {text}'

  def fields(self) -> dict[str, Any]:
    """Returns the fields of a post to a webhook."""
    return {
      'status': 'firing' if self.is_on else 'resolved',
      'value': None if math.isnan(self.value) else self.value,
      'limit': self.alarm.limit,
      'advice': self.alarm.advice,
    }


class _Watched:
  """An alarm with the readings in its window."""

  def __init__(self, alarm: rules.Alarm):
    self.alarm = alarm
    self.readings: collections.deque[tuple[float, measures.Reading]] = (
      collections.deque()
    )
    self.since: float | None = None
    self.is_on = False


class Watch:
  """Evaluates alarms whenever it gets new samples."""

  def __init__(
    self, alarms: Sequence[rules.Alarm], window_s: float, for_s: float
  ):
    """Initializes the watch.

    Args:
      alarms: the alarms; those without a measure are left to Prometheus.
      window_s: seconds over which a value is measured.
      for_s: seconds over the limit before an alarm starts.
    """
    self._watched = [_Watched(alarm) for alarm in alarms if alarm.measure]
    self._window_s, self._for_s = window_s, for_s

  def update(self, now: float, samples: measures.Samples) -> list[Change]:
    """Returns the alarms that start or end.

    Args:
      now: time of the samples in seconds, of a clock that never goes back.
      samples: the current samples.
    """
    changes = []
    for watched in self._watched:
      value = self._value(watched, now, samples)
      is_over = watched.alarm.is_beyond(value)
      if not is_over:
        watched.since = None
      elif watched.since is None:
        watched.since = now
      is_on = is_over and now - watched.since >= self._for_s
      if is_on != watched.is_on:
        watched.is_on = is_on
        changes.append(Change(watched.alarm, value, is_on))
    return changes

  def _value(self, watched, now, samples) -> float:
    measure, readings = watched.alarm.measure, watched.readings
    readings.append((now, measure.read(samples)))
    while readings[0][0] < now - self._window_s:
      readings.popleft()
    return measure.over([reading for _, reading in readings])
