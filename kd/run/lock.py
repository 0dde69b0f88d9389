"""Locks a folder, so that only one run at a time writes it."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import fcntl
import json
import os
import socket

from kd.core import buckets
from kd.core import errors
from kd.core import objects
from kd.partitioning import processes
from kd.run import lease

FILE = 'lock'
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def shared(
  folder: str, path: str, say: Callable[[str], None]
) -> Iterator[None]:
  """Locks a folder exclusively for a run; process 0 holds the lock.

  Args:
    folder: the folder that the run writes.
    path: the flag or field that names it.
    say: function that prints a warning.

  Raises:
    ConfigError: as for `hold`.
  """
  with contextlib.ExitStack() as stack:
    processes.from_first(
      lambda: stack.enter_context(exclusive(folder, path, say))
    )
    # Another run may have written files before this one got the lock.
    buckets.refresh(folder)
    yield


@contextlib.contextmanager
def exclusive(
  folder: str, path: str, say: Callable[[str], None]
) -> Iterator[None]:
  """Locks a folder, local or in a bucket, for this process; see `shared`."""
  if objects.is_url(buckets.remote(folder)):
    with lease.hold(folder, path, say):
      yield
    return
  with hold(folder, path) as warning:
    if warning:
      say(f'warning: {warning}; do not start a second run on it')
    yield


@contextlib.contextmanager
def hold(folder: str, path: str) -> Iterator[str]:
  """Creates the folder if it is missing, and locks it against other runs.

  The kernel, or on NFS the server, releases a lock when its process dies, so no
  timeout is involved and the file of a dead run is ignored. A folder that was
  created here and is still empty at the end is removed.

  Args:
    folder: the folder that the run writes.
    path: the flag or field that names it.

  Yields:
    '', or the reason why the file system cannot lock the folder.

  Raises:
    ConfigError: another run holds the folder, or it cannot be written.
  """
  locked = os.path.join(folder, FILE)
  made = not os.path.isdir(folder)
  with errors.refused_unless_writable(
    path, folder, 'a folder that this user can write'
  ):
    os.makedirs(folder, exist_ok=True)
    try:
      file, warning = _lock(locked)
    except BlockingIOError as e:
      raise errors.ConfigError(
        path,
        f'{folder!r} is in use by {_holder(locked)}',
        legal='a new folder, or this one when that run has ended',
      ) from e
  try:
    yield warning
  finally:
    # Must come before the release, after which the file may be another run's.
    with contextlib.suppress(OSError):
      os.unlink(locked)
      if made:
        os.rmdir(folder)
    file.close()


def _lock(path):
  """Returns the open lock file, and the reason if it could not be locked."""
  while True:
    file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115
    warning = ''
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # Another run may have removed it between the two calls.
      if not _is(file, path):
        file.close()
        continue
    except BlockingIOError:
      file.close()
      raise
    except OSError as e:
      if e.errno not in _NO_LOCKS:
        file.close()
        raise
      warning = f'{path}: no locks on this file system: {e.strerror}'
    holder = {'pid': os.getpid(), 'host': socket.gethostname()}
    file.truncate(0)
    file.write(json.dumps(holder) + '\n')
    file.flush()
    return file, warning


def _is(file, path):
  try:
    return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
  except FileNotFoundError:
    return False


def _holder(path):
  try:
    with open(path, encoding='utf-8') as f:
      holder = json.load(f)
    return f'process {holder["pid"]} on {holder["host"]}'
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return 'another run'
