"""How far a long pass over rows is."""

from collections.abc import Callable
import time

from kd.core import durations

_EVERY_S = 10.0  # between lines of progress


class Progress:
  """Says now and then how far it is."""

  def __init__(self, rows: int, length: int, say: Callable[[str], None]):
    """Begins.

    Args:
      rows: that are to be done, over all processes.
      length: tokens a row, L.
      say: called with a line for the user.
    """
    self._rows, self._length, self._say = rows, length, say
    self._done = self._skipped = 0
    self._began = self._said = None

  @property
  def tokens_per_s(self) -> float:
    """Without the first batch, which waited for the compiler."""
    if self._began is None:
      return 0.0
    elapsed = max(time.monotonic() - self._began, 1e-9)
    return (self._done - self._skipped) * self._length / elapsed

  def add(self, rows: int) -> None:
    """So many rows more are done."""
    self._done += rows
    now = time.monotonic()
    if self._began is None:
      self._skipped, self._began, self._said = self._done, now, now
      return
    if now - self._said < _EVERY_S and self._done < self._rows:
      return
    self._said, rate = now, self.tokens_per_s
    left = (self._rows - self._done) * self._length / rate
    self._say(
      f'cache {self._done:,}/{self._rows:,} rows  {rate:,.0f} tokens/s  ETA '
      f'{durations.clock(left)}'
    )
