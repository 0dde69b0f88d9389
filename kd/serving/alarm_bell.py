"""Raises alarms as a line in the log and a post to the webhook."""

from collections.abc import Callable
import threading
from typing import Any

from kd.monitoring import webhook


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

  def ring(self, alarm: str, text: str, **more: Any) -> None:
    """Raises an alarm without waiting for its delivery.

    Args:
      alarm: kind of the alarm.
      text: the message.
      **more: further JSON fields of the post.
    """
    self.say(f'alarm: {text}')
    if self._url:
      shown = f'kd: {self._service}: {text}'
      value = webhook.alarm(alarm, shown, self._service, **more)
      threading.Thread(target=self._deliver, args=(value,), daemon=True).start()

  def _deliver(self, value):
    try:
      webhook.deliver(self._url, value)
    except OSError as e:
      self.say(f'warning: an alarm was not delivered: {e}')
