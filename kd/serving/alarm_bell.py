"""Raises alarms as a line in the log and a post to the webhook."""

from collections.abc import Callable
import queue
import threading
import time
from typing import Any

from kd.monitoring import webhook

# Seconds between the attempts to deliver an alarm.
_DELAYS_S = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MOST_WAITING = 100  # Number of alarms that wait while nobody answers.


class AlarmBell:
  """Reports failures and recoveries.

  Attributes:
    say: writes a line to the log.
  """

  def __init__(self, url: str, service: str, say: Callable[[str], None]):
    """Initializes the bell.

    Args:
      url: URL of the webhook; '' for none.
      service: name of the service.
      say: writes a line to the log.
    """
    self._url, self._service, self.say = url, service, say
    self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(_MOST_WAITING)
    if url:
      threading.Thread(target=self._deliver_all, daemon=True).start()

  def ring(self, alarm: str, text: str, **more: Any) -> None:
    """Raises an alarm without waiting for its delivery.

    Args:
      alarm: kind of the alarm.
      text: the message.
      **more: further JSON fields of the post.
    """
    self.say(f'alarm: {text}')
    if not self._url:
      return
    shown = f'kd: {self._service}: {text}'
    try:
      self._waiting.put_nowait(
        webhook.alarm(alarm, shown, self._service, **more)
      )
    except queue.Full:
      self._warn(f'{_MOST_WAITING} others are waiting')

  def _deliver_all(self):
    """Delivers alarms one after the other, so that they arrive in order."""
    while True:
      value = self._waiting.get()
      try:
        self._deliver(value)
      except OSError as e:
        self._warn(str(e))
      self._waiting.task_done()

  def _deliver(self, value):
    """Tries to deliver an alarm for about 8 minutes.

    Raises:
      OSError: the alarm is refused, or every attempt failed.
    """
    for delay in _DELAYS_S:
      try:
        return webhook.deliver(self._url, value)
      except webhook.RefusedError:
        raise
      except OSError:
        time.sleep(delay)
    return webhook.deliver(self._url, value)

  def _warn(self, reason):
    self.say(f'warning: an alarm was not delivered: {reason}')
