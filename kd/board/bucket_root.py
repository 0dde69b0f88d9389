"""Keeps the files of runs in a bucket in a local folder."""

from collections.abc import Collection
import itertools
import os
import threading
import time

from kd.board import run_files
from kd.core import bucket_copy
from kd.core import errors
from kd.core import layout
from kd.core import objects
from kd.reasoning.trees import tree_run
from kd.train import report

_EVERY_S = 20.0  # Seconds between two listings.
# The board reads no other files.
_ENDINGS = ('.json', '.jsonl', report.FILE)
# Files that make their folder a workdir.
_MARKS = frozenset({*run_files.MARKS, tree_run.IDENTITY})
# Folders of a workdir that the board does not read.
_NOT_READ = frozenset(
  {layout.CHECKPOINTS, layout.DAMAGED_CHECKPOINTS, layout.EXPORT}
  | {layout.PRUNE, layout.VERSIONS, 'profile', 'traces'}
)


def _read_by_board(names: Collection[str]) -> set[str]:
  """Returns the names of the objects that the board reads."""
  workdirs, folders = set(), set()
  for name in names:
    folder, _, base = name.rpartition('/')
    if base in _MARKS:
      workdirs.add(folder)
    folders.update(_parents(name))
  # An object that has the name of a folder cannot be a file on disk.
  return {
    name
    for name in names
    if name.endswith(_ENDINGS)
    and name not in folders
    and _is_plain(name)
    and not any(
      os.path.basename(folder) in _NOT_READ
      and os.path.dirname(folder) in workdirs
      for folder in _parents(name)
    )
  }


def _parents(name):
  """Returns the folders above an object: 'a' and 'a/b' for 'a/b/c'."""
  return itertools.accumulate(name.split('/')[:-1], lambda x, y: f'{x}/{y}')


def _is_plain(name):
  """Returns whether no part of a name is empty, hidden, '.' or '..'."""
  return not any(x == '' or x.startswith('.') for x in name.split('/'))


class BucketRoot:
  """A folder in a bucket.

  Attributes:
    url: URL of the folder.
    folder: local folder with the files that the board reads. Their dates are
      those of the objects.
    problem: the reason why the last refresh failed, '' if it did not.
  """

  def __init__(self, url: str):
    """Initializes an empty local folder; `refresh` downloads the files.

    Raises:
      ConfigError: the URL names no bucket.
    """
    if not url.partition('://')[2].strip('/'):
      raise errors.ConfigError(
        'command line', f'found {url!r}', legal='gs://BUCKET or s3://BUCKET'
      )
    self.url, self.problem = url.rstrip('/'), ''
    self.folder = bucket_copy.new_folder(os.path.basename(self.url))
    self._listed: dict[str, objects.Listed] = {}
    self._read_at: float | None = None
    self._is_busy = False

  def refresh(self) -> None:
    """Downloads what has changed, unless that was done recently.

    Only the first call waits for the bucket.

    Raises:
      ConfigError: the first call cannot read the bucket.
    """
    if self._read_at is None:
      self._download()
      self._read_at = time.monotonic()
    elif not self._is_busy and time.monotonic() - self._read_at >= _EVERY_S:
      self._is_busy = True
      threading.Thread(target=self._download_again, daemon=True).start()

  def _download_again(self):
    try:
      self._download()
      self.problem = ''
    except errors.ConfigError as e:
      self.problem = str(e)
    self._read_at, self._is_busy = time.monotonic(), False

  def _download(self):
    try:
      self._update()
    except OSError as e:
      if objects.is_url(e.filename or ''):
        raise errors.ConfigError(
          self.url,
          f'cannot be read: {e.strerror}',
          legal='a folder in a bucket that this user can read',
        ) from e
      raise errors.ConfigError(
        self.folder,
        f'cannot be written: {e.strerror}',
        legal='a $TMPDIR with space',
      ) from e

  def _update(self):
    listed = objects.listed(self.url)
    names = _read_by_board(listed)
    for name in self._listed.keys() - names:
      os.unlink(os.path.join(self.folder, name))
      del self._listed[name]
    changed = [n for n in names if self._listed.get(n) != listed[n]]
    read = objects.read_changed({f'{self.url}/{n}': None for n in changed})
    for url, found in read:
      if found.data is None and not found.is_large:
        continue  # It was removed after the listing.
      name = url[len(self.url) + 1 :]
      path = os.path.join(self.folder, name)
      bucket_copy.write_file(path, url, found, listed[name].modified)
      self._listed[name] = listed[name]
