"""Locks a folder in a bucket, so that one run at a time writes it.

A bucket has no locks that end with their process. The lock is an object, the
lease, which its holder renews regularly. A run that sees a lease waits for
longer than the interval: a lease that was not renewed in that time was left by
a killed run, and is taken over. Every write is conditional on the lease that
was read, so only one of several runs gets it. Clocks of different machines are
not compared.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import math
import os
import socket
import threading
import time
import uuid

from kd.core import buckets
from kd.core import errors
from kd.core import machine
from kd.core import objects

RENEWED_EVERY_S = 10.0
DEAD_AFTER_S = 45.0  # Since the last renewal.


class _Lease:
  """A lease that this process holds and renews in a thread."""

  def __init__(
    self, folder: str, url: str, every_s: float, dead_after_s: float
  ):
    self._folder, self._url, self._every_s = folder, url, every_s
    self._dead_after_s = dead_after_s
    self._token, self._count = uuid.uuid4().hex, 0
    self._generation, self._ended = b'', threading.Event()
    self._thread = threading.Thread(target=self._renew, daemon=True)

  def take(self, generation: bytes) -> bool:
    """Writes the lease if it still has the given generation."""
    began = time.monotonic()
    self._count += 1
    value = {
      **_here(),
      'pid': os.getpid(),
      'token': self._token,
      'renewals': self._count,
    }
    data = json.dumps(value).encode() + b'\n'
    written = objects.write(self._url, data, generation)
    if written is None:
      # The response to a successful write may have been lost.
      there = objects.read(self._url)
      if there.data != data:
        return False
      written = there.generation
    self._generation = written
    buckets.hold_until(self._folder, began + self._dead_after_s)
    return True

  def start(self) -> None:
    self._thread.start()

  def _renew(self):
    renewed = time.monotonic()
    while not self._ended.wait(self._every_s):
      try:
        if not self.take(self._generation):
          return self._lose('another run has taken it over')
        renewed = time.monotonic()
      except OSError as e:
        if time.monotonic() - renewed > self._dead_after_s:
          return self._lose(f'its lock could not be renewed: {e.strerror}')
    return None

  def _lose(self, why):
    buckets.stop_writes(self._folder, f'{why}; this run stops writing')

  def release(self) -> None:
    """Removes the lease if this process still holds it."""
    self._ended.set()
    self._thread.join()
    with contextlib.suppress(OSError):
      objects.write(self._url, None, self._generation)
    buckets.hold_until(self._folder, math.inf)


@contextlib.contextmanager
def hold(
  folder: str,
  path: str,
  say: Callable[[str], None],
  every_s: float = RENEWED_EVERY_S,
  dead_after_s: float = DEAD_AFTER_S,
) -> Iterator[None]:
  """Locks a folder against other runs and updates its local copy.

  Args:
    folder: the local copy of a folder in a bucket.
    path: the flag or field that names it.
    say: function that prints a line, called before waiting.
    every_s: seconds between renewals of the lease.
    dead_after_s: seconds after which a lease without renewals expires.

  Raises:
    ConfigError: another run holds the folder, or it cannot be written.
  """
  url = f'{buckets.remote(folder)}/{buckets.LEASE}'
  with buckets.refused_unless_accessible(buckets.remote(folder)):
    lease = _Lease(folder, url, every_s, dead_after_s)
    there = objects.read(url)
    if there.data is not None and not _was_killed_here(there.data):
      say(
        f'{buckets.remote(folder)} is locked by {_holder(there.data)}; waiting '
        f'up to {dead_after_s:.0f} s to see whether its lease is renewed'
      )
      there = _unrenewed(url, there, every_s, dead_after_s)
    if there is None or not lease.take(there.generation):
      raise errors.ConfigError(
        path,
        f'{buckets.remote(folder)!r} is in use by '
        f'{_holder(objects.read(url).data)}',
        legal='a new folder, or this one when that run has ended',
      )
  lease.start()
  try:
    buckets.refresh(folder)
    with buckets.synced():
      yield
  finally:
    lease.release()


def _unrenewed(url, first, every_s, dead_after_s):
  """Waits; returns the lease if it expires or is removed, None if renewed."""
  end = time.monotonic() + dead_after_s
  while time.monotonic() < end:
    time.sleep(min(1.0, every_s))
    now = objects.read(url)
    if now.data is None:
      return now
    if now.generation != first.generation:
      return None
  return first


def _here():
  """Returns values that are equal in processes with a common PID namespace."""
  namespace = ''
  with contextlib.suppress(OSError):  # Only Linux has namespaces.
    namespace = os.readlink('/proc/self/ns/pid')
  # The initial namespace has the same name on every machine.
  return {
    'host': socket.gethostname(),
    'machine': machine.name(),
    'namespace': namespace,
  }


def _was_killed_here(data):
  """Returns whether the holder of a lease was a process here that is gone."""
  try:
    holder = json.loads(data)
    if any(holder.get(k) != v for k, v in _here().items()):
      return False
    os.kill(int(holder['pid']), 0)
    return False
  except ProcessLookupError:
    return True
  except (OSError, ValueError, KeyError, TypeError):
    return False


def _holder(data):
  try:
    holder = json.loads(data or b'')
    return f'process {holder["pid"]} on {holder["host"]}'
  except (ValueError, KeyError, TypeError):
    return 'another run'
