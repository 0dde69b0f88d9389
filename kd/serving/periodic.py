"""Repeats calls in threads."""

from collections.abc import Callable
import threading

from kd.core import errors


def thread(
  call: Callable[[], None],
  every_s: float,
  ended: threading.Event,
  failed: Callable[[str], None],
) -> threading.Thread:
  """Returns a thread, not yet started, that repeats a call.

  Args:
    call: the function to call.
    every_s: seconds between calls.
    ended: ends the thread after its current call.
    failed: reports an error, once if it repeats; calls continue.
  """

  def run():
    told = ''
    while not ended.wait(every_s):
      try:
        call()
        told = ''
      except Exception as e:  # The thread must continue.
        if text(e) != told:
          told = text(e)
          failed(told)

  return threading.Thread(target=run, daemon=True)


def text(error: Exception) -> str:
  """Returns the message of an error, with its type if it is unexpected."""
  if isinstance(error, errors.KdError | OSError):
    return str(error)
  return f'{type(error).__name__}: {error}'
