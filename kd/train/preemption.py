"""SIGTERM: the machine is about to be taken away."""

import signal
import threading

from kd.core import errors


class Notice:
  """While entered, remembers a SIGTERM instead of dying of it."""

  def __init__(self):
    self._event = threading.Event()

  def __enter__(self) -> 'Notice':
    self._previous = signal.signal(
      signal.SIGTERM, lambda signum, frame: self._event.set()
    )
    return self

  def __exit__(self, *unused) -> None:
    signal.signal(signal.SIGTERM, self._previous)

  @property
  def received(self) -> bool:
    return self._event.is_set()

  def check(self) -> None:
    """Raises PreemptedError if the signal has come."""
    if self.received:
      raise errors.PreemptedError('SIGTERM received')
