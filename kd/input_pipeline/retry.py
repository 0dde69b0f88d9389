"""Retries reads from disks and servers that fail temporarily."""

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

# Errors of files that are missing, forbidden or of another type: not retried.
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
  """Data that could not be read, even with retries."""


class DamagedError(ReadError):
  """Damaged data, which retries cannot fix."""

  exit_code = 2


def is_transient(error: Exception) -> bool:
  """Returns whether a retry may succeed, since a disk or network failed."""
  if isinstance(error, OSError):
    if isinstance(error, _PERMANENT):
      return False
    return error.errno not in _PERMANENT_CODES
  tensorflow: Any = sys.modules.get('tensorflow')
  if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
    return False
  if user_errors.is_python_error(error.message):
    # Raised by Python code that TensorFlow called; the message names the class.
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
  """Settings for retries of reads.

  Attributes:
    attempts: maximum number of attempts per read, 1 or more.
    wait_s: seconds before the second attempt; doubled for each later one.
    timeout_s: seconds that a step waits for its rows.
  """

  attempts: int
  wait_s: float
  timeout_s: float

  def stream(self, what: str, make: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Yields the items of an iterable and resumes after failed reads.

    Args:
      what: description of the data, for messages.
      make: returns a new iterable with the same items.

    Raises:
      ReadError, DamagedError, KdError: an item cannot be read, see `read`.
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
    """Returns the result of `call`, retrying failures of disks and networks.

    Args:
      what: description of the data, for messages.
      call: reads the data; may be called again after it has raised.

    Raises:
      ReadError: every attempt failed; names `what` and the last failure.
      DamagedError: `call` raised another exception; names `what` and it.
      KdError: `call` raised it.
    """
    attempt, wait = 1, self.wait_s
    while True:
      try:
        return call()
      except (errors.KdError, MemoryError):
        raise
      except Exception as e:  # Each reader raises its own types.
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
    index: index of the record.

  Raises:
    OSError: the file cannot be read at the moment.
    DamagedError: the checksum of the record is wrong.
  """
  try:
    return source[index]
  except RuntimeError as e:  # array_record raises this class for both.
    if 'Corrupted' in str(e):
      raise DamagedError(f'record {index}: {e}') from e
    raise OSError(errno.EIO, str(e)) from e
