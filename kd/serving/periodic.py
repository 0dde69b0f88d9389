"""Repeats calls in threads."""

from collections.abc import Callable
import threading

from kd.core import errors
from kd.serving import alarm_bell


def thread(
  call: Callable[[], None],
  every_s: float,
  ended: threading.Event,
  bell: alarm_bell.AlarmBell,
  alarm: str,
  task: str,
) -> threading.Thread:
  """Returns a thread, not yet started, that repeats a call.

  Calls continue after an error. The bell rings at the first of several errors,
  which may differ, and at the next success.

  Args:
    call: the function to call.
    every_s: seconds between calls.
    ended: ends the thread after its current call.
    bell: raises alarms.
    alarm: kind of the alarm.
    task: what the call does, as in 'follow the registry'.
  """

  def run():
    has_failed = False
    while not ended.wait(every_s):
      try:
        call()
        if has_failed:
          bell.ring(alarm, f'can {task} again', status='resolved')
        has_failed = False
      except Exception as e:  # The thread must continue.
        if not has_failed:
          bell.ring(alarm, f'cannot {task}: {text(e)}', status='firing')
        has_failed = True

  return threading.Thread(target=run, daemon=True)


def text(error: Exception) -> str:
  """Returns the message of an error, with its type if it is unexpected."""
  if isinstance(error, errors.KdError | OSError):
    return str(error)
  return f'{type(error).__name__}: {error}'
