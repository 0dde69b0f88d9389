"""Reads batches ahead on a thread."""

from collections.abc import Callable
import queue
import threading
import time

from kd.core import types
from kd.input_pipeline import retry


class ReadAhead:
  """Reads the batches of start_step, start_step + 1, ... without end."""

  def __init__(
    self,
    rows: Callable[[int], types.PyTree],
    start_step: int,
    depth: int,
    timeout_s: float,
  ):
    """Starts reading.

    Args:
      rows: returns this process's rows of a step, and the data read with them.
      start_step: the first step.
      depth: number of steps to read ahead, 1 or more.
      timeout_s: total seconds that `get` waits for a step.
    """
    self._rows, self._timeout_s = rows, timeout_s
    self._queue, self._closed = queue.Queue(depth), threading.Event()
    self._step, self._asked = start_step, None
    # A daemon, so that a read that hangs does not keep the process from ending.
    threading.Thread(
      target=self._read, args=(start_step,), name='rows', daemon=True
    ).start()

  def _read(self, step):
    while not self._closed.is_set():
      try:
        found = self._rows(step)
      except BaseException as e:
        found = e
      self._queue.put(found)
      if isinstance(found, BaseException):
        return
      step += 1

  def get(self, wait_s: float) -> types.PyTree | None:
    """Returns the next step's rows; None if not read in `wait_s` seconds.

    Raises:
      ReadError: the step is not read within the timeout.
      Exception: reading raised it.
    """
    if self._asked is None:
      self._asked = time.monotonic()
    try:
      found = self._queue.get(timeout=wait_s)
    except queue.Empty:
      waited = time.monotonic() - self._asked
      if waited >= self._timeout_s:
        raise retry.ReadError(
          f'rows of step {self._step}: not read in {waited:.0f} s '
          '(data.read.timeout_s)'
        ) from None
      return None
    if isinstance(found, BaseException):
      raise found
    self._step, self._asked = self._step + 1, None
    return found

  def close(self) -> None:
    """Stops reading after the batch that is being read."""
    self._closed.set()
    while not self._queue.empty():
      self._queue.get_nowait()
