"""Raises the alarms of section `alarms` from the server's own metrics."""

import threading
import time
from typing import Any

from kd.monitoring import rules
from kd.monitoring import watch as watch_lib
from kd.serving import alarm_bell
from kd.serving import metrics as metrics_lib
from kd.serving import periodic

# Limits of the seconds between evaluations, and evaluations per window.
_LEAST_S, _MOST_S, _PER_WINDOW = 0.5, 15.0, 300


class ServerAlarms:
  """Evaluates the alarms in a thread; reports each start and end once."""

  def __init__(
    self, config: Any, metrics: metrics_lib.Metrics, bell: alarm_bell.AlarmBell
  ):
    """Initializes the alarms.

    Args:
      config: the config; see rules.alarms.
      metrics: metrics of the server.
      bell: raises alarms.
    """
    c = config.alarms
    self._metrics, self._bell = metrics, bell
    self._watch = watch_lib.Watch(rules.alarms(config), c.window_s, c.for_s)
    self._ended = threading.Event()
    self._thread = periodic.thread(
      self._update,
      min(max(c.window_s / _PER_WINDOW, _LEAST_S), _MOST_S),
      self._ended,
      bell,
      'alarms',
      'evaluate the alarms',
    )

  def start(self) -> None:
    """Starts the evaluation."""
    self._thread.start()

  def close(self) -> None:
    """Ends the evaluation."""
    self._ended.set()

  def _update(self) -> None:
    changes = self._watch.update(time.monotonic(), self._metrics.samples())
    for change in changes:
      self._bell.ring(change.alarm.name, change.text, **change.fields())
