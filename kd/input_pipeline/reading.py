"""Reading from disks and servers that fail or hang now and then."""

from collections.abc import Callable
import dataclasses
import time
from typing import TypeVar

from absl import logging

from kd.core import errors

T = TypeVar('T')


class ReadError(errors.KdError):
  """Data that could not be read, though it was tried again."""


@dataclasses.dataclass(frozen=True)
class Patience:
  """How often and how long to try.

  Attributes:
    attempts: of one read, 1 or more.
    wait_s: seconds before the second attempt; doubled before each other one.
    timeout_s: seconds that a step waits for its rows.
  """

  attempts: int
  wait_s: float
  timeout_s: float

  def read(self, what: str, call: Callable[[], T]) -> T:
    """What `call` returns at the first attempt that does not fail.

    Args:
      what: is read; for messages.
      call: reads; may be called again after it has raised.

    Raises:
      ReadError: every attempt failed; names `what` and the last failure.
      KdError: `call` raised one: it is the user's to mend, not tried again.
    """
    attempt, wait = 1, self.wait_s
    while True:
      try:
        return call()
      except errors.KdError:
        raise
      except Exception as e:  # Readers raise kinds of their own.
        problem = f'{type(e).__name__}: {e}'
        if attempt == self.attempts:
          raise ReadError(
            f'{what}: could not be read in {attempt} attempts: {problem}'
          ) from e
      logging.error('%s: attempt %d: %s', what, attempt, problem)
      time.sleep(wait)
      attempt, wait = attempt + 1, 2 * wait
