"""Claims pieces of work in a folder of a bucket.

A claim is an object that its owner rewrites periodically. If it has not been
rewritten for a minute, its owner is considered dead and another process takes
it over with a conditional write, which fails if the claim has changed.
"""

import contextlib
import json
import threading
import time
import uuid

from kd.core import objects
from kd.input_pipeline import claims

_FOLDER = '.claims'  # Hidden, since local copies skip hidden folders.


class ObjectClaims(claims.Claims):
  """The claims of this process in one folder of a bucket."""

  poll_s = 2.0

  def __init__(self, url: str):
    """Initializes the claims.

    Args:
      url: URL of the folder.
    """
    super().__init__(url)
    self._token, self._count = uuid.uuid4().hex, 0
    self._lock = threading.Lock()  # Guards _held, which a thread updates.

  def take(self, name: str) -> bool:
    """Claims a piece of work and returns whether that succeeded."""
    url = self._path(name)
    there = objects.read(url)
    if there.data is not None and not self._is_unwritten(url, there):
      return False
    with self._lock:
      generation = self._write(url, there.generation)
      if generation is not None:
        self._held[name] = generation
    return generation is not None

  def release(self, name: str) -> None:
    """Releases the claim on a piece of work, complete or not."""
    with self._lock, contextlib.suppress(OSError):
      objects.write(self._path(name), None, self._held.pop(name))

  def _path(self, name):
    return f'{self._folder}/{_FOLDER}/{name}{claims.SUFFIX}'

  def _write(self, url, generation):
    """Writes a claim if unchanged; returns its new generation, or None."""
    self._count += 1
    value = {'token': self._token, 'count': self._count}
    data = json.dumps(value).encode() + b'\n'
    written = objects.write(url, data, generation)
    if written is None:
      # The response to a successful write may have been lost.
      there = objects.read(url)
      written = there.generation if there.data == data else None
    return written

  def _is_unwritten(self, url, there):
    """Returns whether a claim has not been written for a minute."""
    # Machines' clocks differ, so only the local one is used.
    now = time.monotonic()
    first = self._seen.setdefault(url, (there.generation, now))
    if first[0] != there.generation:
      self._seen[url] = first = there.generation, now
    return now - first[1] > claims.DEAD_AFTER_S

  def _touch_one(self, name):
    with self._lock:
      if name in self._held:
        written = self._write(self._path(name), self._held[name])
        # None if it was taken over, which is harmless, see claims.
        self._held[name] = written or self._held[name]
