"""Raises alarms: a line in the log, and a post to the webhook."""

from collections.abc import Callable
import threading
from typing import Any

from kd.monitoring import webhook


class AlarmBell:
  """Tells people that something is wrong, or has recovered.

  Attributes:
    say: called with lines for the log.
  """

  def __init__(self, url: str, service: str, say: Callable[[str], None]):
    """Initializes the bell.

    Args:
      url: of the webhook; '' for none.
      service: the name of what is served.
      say: called with lines for the log.
    """
    self._url, self._service, self.say = url, service, say

  def ring(self, alarm: str, text: str, **more: Any) -> None:
    """Raises an alarm; does not wait for its delivery.

    Args:
      alarm: its kind.
      text: what is wrong, for people.
      **more: JSON values, for programs.
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
