"""Shows the log lines of the project's own modules to the user."""

from collections.abc import Callable
import logging


class _Handler(logging.Handler):
  """Passes each line to a function."""

  def __init__(self, say: Callable[[str], None]):
    super().__init__()
    self._say = say

  def emit(self, record: logging.LogRecord) -> None:
    self._say(self.format(record))


def show(say: Callable[[str], None]) -> None:
  """Shows log lines of kd's modules at INFO and above.

  Log lines of libraries are not affected.

  Args:
    say: function that prints a line.
  """
  logger = logging.getLogger('kd')
  logger.setLevel(logging.INFO)
  logger.propagate = False
  logger.handlers = [_Handler(say)]
