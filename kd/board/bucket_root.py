"""Keeps the files of runs in a bucket in a local folder."""

import os
import time

from kd.core import bucket_copy
from kd.core import buckets
from kd.core import errors
from kd.core import layout
from kd.core import objects

_EVERY_S = 20.0  # Seconds between two listings.
# The board reads no other files.
_ENDINGS = ('.json', '.jsonl')
_NOT_READ = frozenset(
  {layout.EXPORT, layout.PRUNE, layout.VERSIONS, 'profile', 'traces'}
)


def _is_read(name: str) -> bool:
  """Returns whether the board reads a file."""
  *folders, base = name.split('/')
  if base == buckets.LEASE:
    return bucket_copy.is_copied(os.path.join(*folders, 'any'))
  is_read = base.endswith(_ENDINGS) and _NOT_READ.isdisjoint(folders)
  return is_read and bucket_copy.is_copied(name)


class BucketRoot:
  """A folder in a bucket.

  Attributes:
    url: URL of the folder.
    folder: local folder with the files that the board reads. Their dates are
      those of the objects.
  """

  def __init__(self, url: str):
    """Initializes an empty local folder; `refresh` downloads the files."""
    self.url = url.rstrip('/')
    self.folder = bucket_copy.new_folder(os.path.basename(self.url))
    self._listed: dict[str, objects.Listed] = {}
    self._read_at: float | None = None

  def refresh(self) -> None:
    """Downloads what has changed, unless that was done recently.

    Raises:
      ConfigError: the bucket cannot be read.
    """
    now = time.monotonic()
    if self._read_at is not None and now - self._read_at < _EVERY_S:
      return
    try:
      self._download()
    except OSError as e:
      raise errors.ConfigError(
        self.url,
        f'cannot be read: {e.strerror}',
        legal='a folder in a bucket that this user can read',
      ) from e
    self._read_at = time.monotonic()

  def _download(self):
    listed = objects.listed(self.url)
    listed = {name: x for name, x in listed.items() if _is_read(name)}
    for name in self._listed.keys() - listed.keys():
      os.unlink(os.path.join(self.folder, name))
      del self._listed[name]
    changed = [n for n, x in listed.items() if self._listed.get(n) != x]
    read = objects.read_changed({f'{self.url}/{n}': None for n in changed})
    for url, found in read:
      name = url[len(self.url) + 1 :]
      if found.data is None and not found.is_large:
        continue  # It was removed after the listing.
      path = os.path.join(self.folder, name)
      os.makedirs(os.path.dirname(path), exist_ok=True)
      # Replaced as a whole, as readers may have the old file open.
      with open(path + layout.ASIDE, 'wb') as f:
        if found.is_large:
          objects.read_large(url, f)
        else:
          f.write(found.data)
      modified = listed[name].modified
      os.utime(path + layout.ASIDE, (modified, modified))
      os.replace(path + layout.ASIDE, path)
      self._listed[name] = listed[name]
