"""Stores the replies of a server on disk, so that requests are not repeated."""

from collections.abc import Sequence
import fcntl
import hashlib
import os
import struct
import threading
import zlib

import numpy as np

from kd.core import errors

FILE = 'replies'

_FOLDER = 'teacher.server.folder'
_HEADER = struct.Struct('<16sII')  # Digest of the request; size, CRC-32.


class Replies:
  """Replies on disk by request; thread-safe.

  Only one process at a time can open them. A reply that a killed run wrote
  partially is cut off.
  """

  def __init__(self, folder: str):
    """Opens or creates the file.

    Args:
      folder: an existing folder.

    Raises:
      ConfigError: another run has it open, or it cannot be written.
    """
    path = os.path.join(folder, FILE)
    self._lock, self._places = threading.Lock(), {}
    with errors.refused_unless_writable(_FOLDER, folder, 'a local folder'):
      self._file = open(path, 'a+b')  # noqa: SIM115 (open until `close`)
      try:
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as e:
        raise errors.ConfigError(
          _FOLDER,
          f'another run has {path!r} open',
          legal='another folder, or one run after the other',
        ) from e
    self._end = self._index()
    self._file.truncate(self._end)

  def _index(self):
    """Indexes the replies and returns the end of the last complete one."""
    self._file.seek(0)
    end = 0
    while len(head := self._file.read(_HEADER.size)) == _HEADER.size:
      digest, size, check = _HEADER.unpack(head)
      data = self._file.read(size)
      if len(data) < size or zlib.crc32(data) != check:
        break
      self._places[digest] = end
      end += _HEADER.size + size
    return end

  def get(self, digest: bytes) -> bytes | None:
    """Returns the reply to a request, or None."""
    with self._lock:
      place = self._places.get(digest)
      if place is None:
        return None
      self._file.seek(place)
      _, size, _ = _HEADER.unpack(self._file.read(_HEADER.size))
      return self._file.read(size)

  def add(self, digest: bytes, data: bytes) -> None:
    """Stores the reply to a request.

    Raises:
      OSError: the disk is full or fails.
    """
    head = _HEADER.pack(digest, len(data), zlib.crc32(data))
    with self._lock:
      self._file.write(head + data)
      self._file.flush()
      self._places[digest] = self._end
      self._end += len(head) + len(data)

  @property
  def closed(self) -> bool:
    """Whether `close` was called."""
    return self._file.closed

  def close(self) -> None:
    """Closes the file, which unlocks it."""
    self._file.close()


def digest_of(
  model: str, ids: Sequence[int], positions: Sequence[int]
) -> bytes:
  """Returns the digest of a request.

  Args:
    model: identity of the model and of the request's settings.
    ids: ids of the prompt.
    positions: requested positions of the prompt.
  """
  digest = hashlib.blake2b(model.encode(), digest_size=16)
  for numbers in (ids, positions):
    digest.update(np.asarray([len(numbers), *numbers], '<i8').tobytes())
  return digest.digest()
