"""Computes SHA-256 digests of data files, cached for large files."""

from collections.abc import Iterator
import contextlib
import json
import os
import stat
import time

from kd.core import folders
from kd.core import identity

FILE = 'digests.json'
_LARGE = 8 << 20  # bytes; digests of smaller files are not cached
# A file may change twice within one tick of the modification time, so digests
# of files that changed this recently are not cached.
_SETTLED_NS = 2_000_000_000


def is_remote(path: str) -> bool:
  """Returns whether a path is a URL, such as gs://bucket/file."""
  return '://' in path


class Digests:
  """Computes digests of files, and caches those of large files in a folder.

  A large file with the recorded size and modification time is not read.
  """

  def __init__(self, folder: str):
    """Reads the cache.

    Args:
      folder: folder of the cache, digests.json; may be missing or read-only.
    """
    self._folder = folder
    self._known = _read(os.path.join(folder, FILE))
    self._delayed = False

  def get(self, path: str) -> tuple[int, str] | None:
    """Returns a file's size and SHA-256 (hex).

    For a URL, the modification time replaces the digest, without a download.

    Args:
      path: a file.

    Returns:
      (bytes, digest), or None if the path is not a regular, readable file: a
      broken link, a socket, a pipe, a folder.

    Raises:
      OSError: the disk fails.
    """
    if is_remote(path):
      return _remote(path)
    try:
      status = os.stat(path)
      if not stat.S_ISREG(status.st_mode):
        return None
      if status.st_size < _LARGE:
        return status.st_size, identity.file_digest(path)
      return status.st_size, self._large(path, status)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
      return None

  def _large(self, path: str, status: os.stat_result) -> str:
    key = os.path.realpath(path)
    state = [status.st_size, status.st_mtime_ns]
    known = self._known.get(key)
    if known and known[:2] == state:
      return known[2]
    digest = identity.file_digest(path)
    if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
      self._known[key] = [*state, digest]
      self._write()
    return digest

  @contextlib.contextmanager
  def delayed_writes(self) -> Iterator[None]:
    """Delays writing the cache to the end of the context."""
    before = dict(self._known)
    self._delayed = True
    try:
      yield
    finally:
      self._delayed = False
      if self._known != before:
        self._write()

  def _write(self):
    # The cache is optional, and the folder may be read-only.
    with contextlib.suppress(OSError):
      if not self._delayed:
        self._write_known()

  def _write_known(self):
    os.makedirs(self._folder, exist_ok=True)
    name = folders.new_name(self._folder, '.digests-')
    try:
      with open(name, 'x', encoding='utf-8') as f:
        json.dump(self._known, f, indent=1)
      os.replace(name, os.path.join(self._folder, FILE))
    except BaseException:
      with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
      raise


def _read(path: str) -> dict[str, list]:
  """Reads the cache; a missing or damaged one is empty."""
  try:
    with open(path, encoding='utf-8') as f:
      known = json.load(f)
  except (OSError, ValueError, RecursionError):
    return {}
  if not isinstance(known, dict):
    return {}
  return {
    key: value
    for key, value in known.items()
    if isinstance(value, list) and list(map(type, value)) == [int, int, str]
  }


def _remote(path: str) -> tuple[int, str] | None:
  import tensorflow as tf  # Supports the URL schemes.

  try:
    status = tf.io.gfile.stat(path)
  except tf.errors.NotFoundError:
    return None
  return status.length, f'modified {status.mtime_nsec}'
