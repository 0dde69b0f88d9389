"""The local copy of a folder in a bucket; see buckets."""

import atexit
import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
import time

from kd.core import errors
from kd.core import layout
from kd.core import objects

# Folders of a workdir that are not copied.
_REMOTE = (layout.CHECKPOINTS, layout.DAMAGED_CHECKPOINTS)
# Folders that only `fetch` downloads, since they may be large.
ON_DEMAND = (layout.EXPORT, layout.PRUNE, layout.VERSIONS)
LEASE = 'lease.json'  # See kd.run.lease.
# Lists the files of a folder that is replaced as a whole, once it is complete.
CONTENTS = 'kd_contents.json'
PREFIX = 'kd-bucket-copy-'  # Names folders in $TMPDIR.
# Seconds between uploads of growing files; each upload sends the whole file.
_SYNC_EVERY_S = 30.0
_POLL_S = 0.1


def is_copied(name: str) -> bool:
  """Returns whether the copy has a file for the object `name`."""
  *folders, name = name.split('/')
  # A name such as a/../b would be outside the copy or in it twice.
  if any(x in ('', *_REMOTE) or x.startswith('.') for x in folders):
    return False
  unwanted = ('', '.', '..', LEASE, CONTENTS)
  return name not in unwanted and not name.endswith(layout.ASIDE)


def _files(folder):
  if os.path.isfile(folder):
    return ['']
  return [
    os.path.relpath(os.path.join(parent, name), folder)
    for parent, _, names in os.walk(folder)
    for name in names
  ]


def _size_and_digest(path):
  with open(path, 'rb') as f:
    digest = hashlib.file_digest(f, 'sha256').hexdigest()
  return [os.path.getsize(path), digest]


def _signature(path):
  status = os.stat(path)
  return status.st_mtime_ns, status.st_size, status.st_ino


def write_file(
  path: str, url: str, read: objects.Object, modified: float | None = None
) -> bytes:
  """Writes an object to a file, which it replaces as a whole.

  Args:
    path: path of the file.
    url: URL of the object.
    read: the result of reading the object.
    modified: date of the file, in seconds since 1970; None for now.

  Returns:
    The generation of the object.
  """
  os.makedirs(os.path.dirname(path), exist_ok=True)
  generation, aside = read.generation, path + layout.ASIDE
  # Renamed when complete: `sync` would upload a partial file.
  with open(aside, 'wb') as f:
    if read.is_large:
      generation = objects.read_large(url, f)
    else:
      f.write(read.data)
  if modified is not None:
    os.utime(aside, (modified, modified))
  os.replace(aside, path)
  return generation


def new_folder(name: str) -> str:
  """Creates a folder that is removed after the end of this process.

  A lock, released when the process ends, marks it as in use. The folder of a
  killed process is removed by the next process that creates one.

  Args:
    name: name of the folder; its parent has a unique name.
  """
  _remove_unused()
  while True:
    parent = tempfile.mkdtemp(prefix=PREFIX)
    try:
      descriptor = os.open(parent, os.O_RDONLY)  # Never closed.
    except FileNotFoundError:
      continue
    with contextlib.suppress(OSError):  # Some file systems have no locks.
      fcntl.flock(descriptor, fcntl.LOCK_EX)
    if os.path.isdir(parent):  # Another process may have just removed it.
      atexit.register(shutil.rmtree, parent, ignore_errors=True)
      folder = os.path.join(parent, name)
      os.mkdir(folder)
      return folder
    os.close(descriptor)


def _remove_unused():
  parent = tempfile.gettempdir()
  for name in os.listdir(parent):
    if not name.startswith(PREFIX):
      continue
    folder = os.path.join(parent, name)
    try:
      descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # It belongs to another user.
      continue
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # In use.
      pass
    finally:
      os.close(descriptor)


class Copy:
  """The local copy of a folder in a bucket."""

  def __init__(self, url: str, is_sparse: bool = False):
    """Initializes an empty copy.

    Args:
      url: URL of the folder.
      is_sparse: whether files are downloaded and uploaded only by name.
    """
    self.url, self.is_sparse = url, is_sparse
    # Keeps the name, since a model is named after its workdir.
    self.folder = new_folder(os.path.basename(url))
    # The generation in the bucket by relative name, and the signature of the
    # local file at that time.
    self._generations: dict[str, bytes] = {}
    self._signatures: dict[str, tuple[int, ...]] = {}
    self._synced_at = time.monotonic()
    self.stopped = ''  # The reason why writes are no longer allowed.
    # End of the lease unless it is renewed, on the clock of time.monotonic.
    self.held_until = math.inf

  def is_copied(self, name: str) -> bool:
    """Returns whether a file is uploaded; '' is the copy itself, a file."""
    return is_copied(name or os.path.basename(self.url))

  def download(self, below: str = '') -> None:
    """Updates the copy, or a folder or file of it, from the bucket."""
    listed = objects.names(self._url(below))
    if listed:
      names = {os.path.join(below, name) for name in listed}
      wanted = {n for n in names if is_copied(n) and self._wants(n, below)}
    else:
      names = wanted = {below}  # It may be a file.
    names = names - self._download_changed(wanted)
    for name in self._generations.keys() - names:
      if not below or f'{name}/'.startswith(f'{below}/'):
        with contextlib.suppress(FileNotFoundError):
          os.unlink(self._path(name))
        self._forget(name)

  def _wants(self, name, below):
    if below:
      return True
    return not self.is_sparse and name.partition('/')[0] not in ON_DEMAND

  def _download_changed(self, names):
    """Downloads changed objects; returns the names of missing ones."""
    missing = set()
    generations = {self._url(n): self._generations.get(n) for n in names}
    for url, read in objects.read_changed(generations):
      name = url[len(self.url) + 1 :]
      if read is None:
        continue
      if read.data is None and not read.is_large:
        missing.add(name)
      else:
        self._store(name, url, read)
    return missing

  def _url(self, name):
    return f'{self.url}/{name}'.rstrip('/')

  def _path(self, name):
    return os.path.join(self.folder, name).rstrip('/')

  def _store(self, name, url, read):
    path = self._path(name)
    if not name and os.path.isdir(path):  # The copied URL is a file.
      os.rmdir(path)
    self._generations[name] = write_file(path, url, read)
    self._signatures[name] = _signature(path)

  def _forget(self, name):
    del self._generations[name], self._signatures[name]

  def upload_file(self, name: str) -> None:
    """Uploads a file."""
    path = self._path(name)
    signature = _signature(path)
    with open(path, 'rb') as f:
      url = self._url(name)
      generation = objects.write_file(url, f, self.check_owned)
    self._generations[name], self._signatures[name] = generation, signature

  def check_owned(self) -> None:
    """Waits until it is certain that this run still holds the folder.

    This waits while the lease is overdue: the next renewal either succeeds, and
    then no other run has taken the folder over, or it stops the writes.

    Raises:
      KdError: another run has taken the folder over, or may have.
    """
    while not self.stopped and time.monotonic() > self.held_until:
      time.sleep(_POLL_S)
    if self.stopped:
      raise errors.KdError(f'{self.url}: {self.stopped}')

  def sync(self) -> None:
    """Uploads changed files, oldest first; removes objects of deleted files.

    Raises:
      KdError: another run has taken the folder over, even if nothing changed.
    """
    self.check_owned()
    self._synced_at = time.monotonic()
    changed = []
    for name in _files(self.folder):
      signature = _signature(self._path(name))
      if self.is_copied(name) and self._signatures.get(name) != signature:
        changed.append((signature, name))
    for _, name in sorted(changed):
      self.upload_file(name)
    self._remove(
      name for name in self._generations if not os.path.exists(self._path(name))
    )

  def upload_if_due(self) -> None:
    """Uploads changed files unless that was done recently."""
    if time.monotonic() - self._synced_at > _SYNC_EVERY_S:
      self.sync()

  def _remove(self, names):
    names = list(names)
    if names:
      objects.remove(map(self._url, names))
    for name in names:
      self._forget(name)

  def upload_folder(self, below: str) -> None:
    """Uploads a folder that replaces the one in the bucket.

    The list of contents is written first, as incomplete, and again last, so a
    reader sees the old files, the new ones, or that the folder is incomplete.
    """
    self.check_owned()
    contents = self._url(f'{below}/{CONTENTS}')
    objects.write(contents, b'{"complete": false}\n')
    files = {}
    for name in sorted(_files(self._path(below))):
      files[name] = _size_and_digest(self._path(f'{below}/{name}'))
      self.upload_file(f'{below}/{name}')
    kept = {*files, CONTENTS}
    objects.remove(
      self._url(f'{below}/{name}')
      for name in objects.names(self._url(below))
      if name not in kept
    )
    for name in list(self._generations):
      if name.startswith(f'{below}/') and name[len(below) + 1 :] not in kept:
        self._forget(name)
    value = {'complete': True, 'files': files}
    objects.write(contents, json.dumps(value, indent=1).encode() + b'\n')

  def check(self, below: str) -> None:
    """Raises ConfigError if a folder does not match its list of contents."""
    url = self._url(below)
    read = objects.read(f'{url}/{CONTENTS}').data
    value = json.loads(read or b'{}')
    problem = ''
    if not value.get('complete'):
      problem = 'is incomplete: its writer was interrupted'
    for name, (size, digest) in value.get('files', {}).items():
      path = self._path(os.path.join(below, name))
      if not os.path.exists(path):
        problem = f'lacks {name}'
        continue
      if _size_and_digest(path) != [size, digest]:
        problem = f'has a {name} that differs from what was written'
    if problem:
      raise errors.ConfigError(url, problem, legal='write it again')
