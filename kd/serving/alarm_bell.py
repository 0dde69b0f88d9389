"""Raises alarms as a line in the log and a post to the webhook."""

from collections.abc import Callable
import contextlib
import queue
import threading
import time
from typing import Any

from kd.monitoring import webhook

_LONGEST_DELAY_S = 64.0  # Between attempts; the delays double from 1 s.
_GIVE_UP_S = 480.0  # From the start of an alarm to its last attempt.
_MOST_WAITING = 100  # Number of alarms that wait for their delivery.
_CLOSING_S = 5.0  # Time for the last deliveries when the server ends.


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
    # The time of each alarm and its post.
    self._waiting: queue.Queue[tuple[float, dict[str, Any]]] = queue.Queue()
    self._closing = threading.Event()
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
    value = webhook.alarm(alarm, shown, self._service, **more)
    self._waiting.put((time.monotonic(), value))
    while self._waiting.qsize() > _MOST_WAITING:
      # The latest alarms describe the current state.
      with contextlib.suppress(queue.Empty):
        self._waiting.get_nowait()
        self._waiting.task_done()
        self._warn(f'{_MOST_WAITING} later ones are waiting')

  def close(self) -> None:
    """Tries to deliver the alarms that are waiting, for a few seconds."""
    self._closing.set()
    end = time.monotonic() + _CLOSING_S
    while self._waiting.unfinished_tasks and time.monotonic() < end:
      time.sleep(0.01)
    if self._waiting.unfinished_tasks:
      left = self._waiting.unfinished_tasks
      self.say(f'warning: alarms that were not delivered: {left}')

  def _deliver_all(self):
    """Delivers alarms one after the other, so that they arrive in order."""
    while True:
      since, value = self._waiting.get()
      try:
        self._deliver(since, value)
      except Exception as e:  # The thread must continue.
        self._warn(str(e) if isinstance(e, OSError) else repr(e))
      self._waiting.task_done()

  def _deliver(self, since, value):
    """Posts an alarm until it is accepted.

    Raises:
      OSError: the alarm is refused, or every attempt failed.
    """
    delay = 1.0
    while True:
      try:
        return webhook.deliver(self._url, value)
      except webhook.RefusedError:
        raise
      except OSError:
        is_last = self._closing.is_set()
        if is_last or time.monotonic() - since > _GIVE_UP_S:
          raise
      self._closing.wait(delay)
      delay = min(2 * delay, _LONGEST_DELAY_S)

  def _warn(self, reason):
    with contextlib.suppress(Exception):  # The log may be a closed pipe.
      self.say(f'warning: an alarm was not delivered: {reason}')
