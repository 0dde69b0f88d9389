"""Keeps what a server has told, so that it is not asked again."""

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
_HEADER = struct.Struct('<16sII')  # The request's digest, bytes, their CRC-32.


class Replies:
  """Replies on disk, by request; one process at a time has them open.

  What a killed run has half written is cut off. Thread-safe.
  """

  def __init__(self, folder: str):
    """Opens the file, or begins it.

    Args:
      folder: exists.

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
    """Finds the replies; returns where the last whole one ends."""
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
    """Keeps the reply to a request.

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
    """Returns whether `close` was called."""
    return self._file.closed

  def close(self) -> None:
    """Closes the file, which unlocks it."""
    self._file.close()


def digest_of(
  model: str, ids: Sequence[int], positions: Sequence[int]
) -> bytes:
  """Returns what names a question.

  Args:
    model: the identity of the model, and how it is asked.
    ids: the prompt.
    positions: of it that are asked for.
  """
  digest = hashlib.blake2b(model.encode(), digest_size=16)
  for numbers in (ids, positions):
    digest.update(np.asarray([len(numbers), *numbers], '<i8').tobytes())
  return digest.digest()
