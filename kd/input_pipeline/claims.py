"""Divides work among processes that share a folder.

A claim is a file. Its owner locks it and touches it periodically, so that other
processes can take over the claims of a dead owner: at once on the same machine,
where the kernel releases its locks, or after a minute without a touch on other
machines, where locks may not work. Taking over the claim of a live owner is
harmless: the work has the same result, and files are renamed when complete.
"""

import contextlib
import fcntl
import os
import threading
import time
from typing import Any

from kd.core import machine

SUFFIX = '.claim'
_TOUCH_S = 5.0
DEAD_AFTER_S = 60.0


class Claims:
  """The claims of this process in one folder.

  A context manager, which releases the claims on exit.

  Attributes:
    poll_s: interval in seconds at which other processes' claims are polled.
  """

  poll_s = 0.2

  def __init__(self, folder: str):
    """Initializes the claims.

    Args:
      folder: existing folder that all processes share.
    """
    self._folder = folder
    self._held: dict[str, Any] = {}
    self._seen: dict[str, tuple[Any, float]] = {}
    self._ended = threading.Event()
    self._thread = threading.Thread(
      target=self._touch, name='claims', daemon=True
    )

  def __enter__(self) -> 'Claims':
    self._thread.start()
    return self

  def __exit__(self, *error) -> None:
    self._ended.set()
    self._thread.join()
    for name in list(self._held):
      self.release(name)

  def take(self, name: str) -> bool:
    """Claims a piece of work and returns whether that succeeded.

    Args:
      name: name of the piece of work.

    Raises:
      FileNotFoundError: the folder is gone.
    """
    path = self._path(name)
    if self._is_dead(path):
      with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    try:
      descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    except FileExistsError:
      return False
    with contextlib.suppress(OSError):  # Not every file system has locks.
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(descriptor, machine.name().encode())
    self._held[name] = descriptor
    return True

  def wait(self, name: str) -> None:
    """Waits until no other process claims a piece of work, then claims it.

    Raises:
      FileNotFoundError: the folder is gone.
    """
    while not self.take(name):
      self._ended.wait(self.poll_s)

  def release(self, name: str) -> None:
    """Releases the claim on a piece of work, complete or not."""
    descriptor = self._held.pop(name)
    with contextlib.suppress(FileNotFoundError):
      os.unlink(self._path(name))
    os.close(descriptor)

  def _path(self, name):
    return os.path.join(self._folder, f'.{name}{SUFFIX}')

  def _is_dead(self, path):
    """Returns whether the owner of a claim has died."""
    try:
      with open(path, 'rb') as f:
        here = f.read() == machine.name().encode()
        touched = os.fstat(f.fileno()).st_mtime_ns
        if here and _unlocked(f):
          return True
    except FileNotFoundError:
      return False
    # Machines' clocks differ, so only the local one is used.
    now = time.monotonic()
    if self._seen.setdefault(path, (touched, now))[0] != touched:
      self._seen[path] = touched, now
    return now - self._seen[path][1] > DEAD_AFTER_S

  def _touch(self):
    while not self._ended.wait(_TOUCH_S):
      for name in list(self._held):
        with contextlib.suppress(OSError):
          self._touch_one(name)

  def _touch_one(self, name):
    os.utime(self._path(name))


def is_claim(file: str) -> bool:
  """Returns whether a file name is that of a claim."""
  return file.endswith(SUFFIX)


def _unlocked(file) -> bool:
  try:
    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except OSError:
    return False
  return True
