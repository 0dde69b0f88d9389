"""Prints progress lines of a long task: completed items, speed and ETA."""

from collections.abc import Callable
import math
import sys
import threading
import time

from kd.core import durations

_TERMINAL_S = 10.0  # between lines on a terminal
_LOG_S = 60.0  # between lines in a log, except the first

Say = Callable[[str], None]


def interval_s(lines: int) -> float:
  """Returns the seconds until the next line.

  Args:
    lines: number of lines already printed.
  """
  # The first line in a log is early, to show that the task has begun.
  return _LOG_S if lines and not sys.stdout.isatty() else _TERMINAL_S


class Progress:
  """Prints a line every few seconds while a task runs.

  This is a context manager. A thread prints the lines, so they also appear
  while the task waits for the compiler or the disk:

    with progress.Progress('evaluating', say, len(rows), 'rows') as task:
      for row in rows:
        ...
        task.add(1)
  """

  def __init__(
    self,
    label: str,
    say: Say,
    total: int = 0,
    unit: str = '',
    *,
    tokens: int = 0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Initializes the task.

    Args:
      label: beginning of the line, e.g. 'compiling the update'.
      say: function that prints one line; called from another thread.
      total: number of items of the task over all processes; 0 if not counted.
      unit: plural noun for the items, e.g. 'rows'.
      tokens: number of tokens of an item; 0 to report the speed in items per
        second instead of tokens per second.
      clock: function that returns the time in seconds.
    """
    self._label, self._say = label, say
    self._total, self._unit, self._tokens = total, unit, tokens
    self._clock, self._start = clock, clock()
    self._done = self._skipped = 0
    self._counted_from: float | None = None
    self._ended = threading.Event()
    self._thread = threading.Thread(
      target=self._report, name='progress', daemon=True
    )

  def __enter__(self) -> 'Progress':
    self._thread.start()
    return self

  def __exit__(self, *error) -> None:
    self._ended.set()
    self._thread.join()

  def add(self, items: int) -> None:
    """Counts completed items."""
    self.set(self._done + items)

  def set(self, done: int) -> None:
    """Sets the number of completed items."""
    self._done = done
    if self._counted_from is None and done:
      # The speed excludes the first items, which wait for compilation.
      self._counted_from, self._skipped = self._clock(), done

  @property
  def per_s(self) -> float:
    """Tokens, or else items, completed per second; 0 if unknown."""
    if self._counted_from is None:
      return 0.0
    elapsed = max(self._clock() - self._counted_from, 1e-9)
    return (self._done - self._skipped) * (self._tokens or 1) / elapsed

  def line(self) -> str:
    """Formats the current progress line."""
    parts = [f'{self._label}:']
    if self._total:
      parts.append(f'{self._done:,}/{self._total:,} {self._unit} ')
    speed = self.per_s
    if speed:
      noun = 'tokens' if self._tokens else self._unit
      left = (self._total - self._done) * (self._tokens or 1) / speed
      digits = max(0, 1 - math.floor(math.log10(speed)))
      parts.append(f'{speed:,.{digits}f} {noun}/s  ETA {durations.clock(left)}')
    else:
      parts.append(f'{self._clock() - self._start:.0f} s so far')
    return ' '.join(parts)

  def _report(self):
    lines = 0
    while not self._ended.wait(interval_s(lines)):
      lines += 1
      self._say(self.line())
