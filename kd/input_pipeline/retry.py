"""Reading from disks and servers that fail or hang now and then."""

import builtins
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import errno
import gzip
import io
import itertools
import sys
import time
from typing import Any, TypeVar

from absl import logging

from kd.core import errors
from kd.core import user_errors

T = TypeVar('T')
_END: Any = object()

# What says that a file is missing, forbidden or of another kind: it stays so.
_PERMANENT = (
  *(FileNotFoundError, FileExistsError, PermissionError),
  *(IsADirectoryError, NotADirectoryError),
  *(gzip.BadGzipFile, io.UnsupportedOperation),
)
_PERMANENT_CODES = (
  *(errno.ENOENT, errno.EEXIST, errno.EACCES, errno.EPERM),
  *(errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.EBADF),
  *(errno.ENAMETOOLONG, errno.ELOOP),
)
_TENSORFLOW = (
  *('UnavailableError', 'DeadlineExceededError', 'AbortedError'),
  *('ResourceExhaustedError', 'UnknownError'),
)


class ReadError(errors.KdError):
  """Data that could not be read, though it was tried again."""


class DamagedError(ReadError):
  """Data that no further attempt can read: its bytes are wrong."""

  exit_code = 2


def is_transient(error: Exception) -> bool:
  """Returns whether another attempt may succeed: a disk or network failed."""
  if isinstance(error, OSError):
    if isinstance(error, _PERMANENT):
      return False
    return error.errno not in _PERMANENT_CODES
  tensorflow: Any = sys.modules.get('tensorflow')
  if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
    return False
  if user_errors.is_python_error(error.message):
    # Python code that TensorFlow called: its class stands in the message.
    name = user_errors.python_error_name(error.message)
    raised = getattr(builtins, name, None)
    return (
      isinstance(raised, type)
      and issubclass(raised, OSError)
      and not issubclass(raised, _PERMANENT)
    )
  kinds = tuple(getattr(tensorflow.errors, name) for name in _TENSORFLOW)
  return isinstance(error, kinds)


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
  """How often and how long to try.

  Attributes:
    attempts: of one read, 1 or more.
    wait_s: seconds before the second attempt; doubled before each other one.
    timeout_s: seconds that a step waits for its rows.
  """

  attempts: int
  wait_s: float
  timeout_s: float

  def stream(self, what: str, make: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Yields what an iterable yields; continues where a read failed.

    Args:
      what: what is read, for messages.
      make: returns the iterable from its beginning, with equal items each time.

    Raises:
      ReadError, DamagedError, KdError: as `read`, of one item.
    """
    count, items = 0, None

    def following():
      nonlocal items
      if items is None:
        items = itertools.islice(make(), count, None)
      try:
        return next(items, _END)
      except BaseException:
        items = None
        raise

    while (item := self.read(what, following)) is not _END:
      count += 1
      yield item

  def read(self, what: str, call: Callable[[], T]) -> T:
    """Returns what `call` returns at the first attempt that does not fail.

    Only failures of disks and networks are tried again.

    Args:
      what: what is read, for messages.
      call: reads; may be called again after it has raised.

    Raises:
      ReadError: every attempt failed; names `what` and the last failure.
      DamagedError: `call` raised anything else: names `what` and the failure.
      KdError: `call` raised one.
    """
    attempt, wait = 1, self.wait_s
    while True:
      try:
        return call()
      except (errors.KdError, MemoryError):
        raise
      except Exception as e:  # Readers raise kinds of their own.
        problem = f'{type(e).__name__}: {e}'
        if not is_transient(e):
          raise DamagedError(f'{what}: cannot be read: {problem}') from e
        if attempt == self.attempts:
          raise ReadError(
            f'{what}: could not be read in {attempt} attempts: {problem}'
          ) from e
      logging.error('%s: attempt %d: %s', what, attempt, problem)
      time.sleep(wait)
      attempt, wait = attempt + 1, 2 * wait


def record(source: Any, index: int) -> bytes:
  """Returns a record of an ArrayRecord file.

  Args:
    source: a grain.sources.ArrayRecordDataSource.
    index: the record's number.

  Raises:
    OSError: the file cannot be read now.
    DamagedError: its bytes are wrong: their checksum differs.
  """
  try:
    return source[index]
  except RuntimeError as e:  # array_record has one class for both.
    if 'Corrupted' in str(e):
      raise DamagedError(f'record {index}: {e}') from e
    raise OSError(errno.EIO, str(e)) from e
