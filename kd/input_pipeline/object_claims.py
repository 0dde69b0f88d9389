"""Claims pieces of work in a folder of a bucket.

A claim is an object, which its owner writes again and again. That of an owner
that has died is taken over, on condition that it is still the one that was
read, after a minute in which it was not written.
"""

import contextlib
import json
import threading
import time
import uuid

from kd.core import objects
from kd.input_pipeline import claims

_FOLDER = '.claims'  # A local copy has no hidden folders.


class ObjectClaims(claims.Claims):
  """The claims of this process in one folder of a bucket."""

  poll_s = 2.0

  def __init__(self, url: str):
    """Initializes it.

    Args:
      url: of the folder.
    """
    super().__init__(url)
    self._token, self._count = uuid.uuid4().hex, 0
    self._lock = threading.Lock()  # Of what is held: a thread touches it.

  def take(self, name: str) -> bool:
    """Claims a piece of work; returns whether it is this process's now."""
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
    """Gives a piece back, done or not."""
    with self._lock, contextlib.suppress(OSError):
      objects.write(self._path(name), None, self._held.pop(name))

  def _path(self, name):
    return f'{self._folder}/{_FOLDER}/{name}{claims.SUFFIX}'

  def _write(self, url, generation):
    """Writes a claim on condition; returns its generation, or None."""
    self._count += 1
    value = {'token': self._token, 'count': self._count}
    data = json.dumps(value).encode() + b'\n'
    written = objects.write(url, data, generation)
    if written is None:
      # The answer of a write that did happen may have been lost.
      there = objects.read(url)
      written = there.generation if there.data == data else None
    return written

  def _is_unwritten(self, url, there):
    """Returns whether nobody has written a claim for a minute."""
    # Clocks of machines differ: only this one's is read.
    now = time.monotonic()
    first = self._seen.setdefault(url, (there.generation, now))
    if first[0] != there.generation:
      self._seen[url] = first = there.generation, now
    return now - first[1] > claims.DEAD_AFTER_S

  def _touch_one(self, name):
    with self._lock:
      if name in self._held:
        written = self._write(self._path(name), self._held[name])
        # Without one it was taken over: the work has the same result.
        self._held[name] = written or self._held[name]
