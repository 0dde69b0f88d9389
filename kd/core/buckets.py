"""Local copies of folders in buckets, for what needs files.

A run whose workdir is in a bucket works on a copy in a local folder, one for
each process. Its files are downloaded when it begins. What is written whole is
uploaded at once, as one object; files that grow are uploaded at `sync`, before
a checkpoint that counts on them is committed. Checkpoints have no copy: Orbax
writes them into the bucket, from all processes (see `remote`).

A process that is killed loses nothing that a later one needs: its local copy is
never read again.
"""

import atexit
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time

from kd.core import errors
from kd.core import objects

# Folders of a workdir without a copy: checkpoints, and those that were damaged.
_REMOTE = ('checkpoints', 'damaged-checkpoints')
# Folders that are downloaded where `fetch` asks for them: they may be large.
_ON_DEMAND = ('export', 'prune')
LEASE = 'lease.json'  # See kd.run.lease.
# In each folder that is replaced as a whole: its files, once it is complete.
CONTENTS = 'kd_contents.json'
_ASIDE = '.tmp'
_SYNC_EVERY_S = 30.0  # Of files that grow: each upload is of the whole file.


class _Copy:
  """The local copy of a folder of a bucket."""

  def __init__(self, url: str):
    self.url = url
    parent = tempfile.mkdtemp(prefix='kd-bucket-')
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    # Of the same name: a model is called after its workdir.
    self.folder = os.path.join(parent, os.path.basename(url))
    os.mkdir(self.folder)
    # By relative name: the generation in the bucket, and the local file's
    # signature as of then.
    self._generations: dict[str, bytes] = {}
    self._signatures: dict[str, tuple[int, ...]] = {}
    self._synced_at = time.monotonic()
    self.lost = ''  # Why nothing may be written any more.

  def download(self, below: str = '') -> None:
    """Brings the copy, or a folder of it, up to date with the bucket."""
    names = objects.names(f'{self.url}/{below}'.rstrip('/'))
    names = {os.path.join(below, name) for name in names}
    wanted = {n for n in names if _is_copied(n) and _is_wanted(n, below)}
    generations = {
      f'{self.url}/{name}': self._generations.get(name) for name in wanted
    }
    for url, read in objects.read_changed(generations):
      if read is not None and read.data is not None:
        self._store(url[len(self.url) + 1 :], read)
    for name in self._generations.keys() - names:
      if not below or name.startswith(f'{below}/'):
        with contextlib.suppress(FileNotFoundError):
          os.unlink(os.path.join(self.folder, name))
        self._forget(name)

  def _store(self, name, read):
    path = os.path.join(self.folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as f:
      f.write(read.data)
    self._generations[name] = read.generation
    self._signatures[name] = _signature(path)

  def _forget(self, name):
    del self._generations[name], self._signatures[name]

  def upload(self, name: str) -> bytes:
    """Uploads a file; returns its bytes."""
    self.check_owned()
    path = os.path.join(self.folder, name)
    signature = _signature(path)
    with open(path, 'rb') as f:
      data = f.read()
    generation = objects.write(f'{self.url}/{name}', data)
    self._generations[name], self._signatures[name] = generation, signature
    return data

  def check_owned(self) -> None:
    """Raises KdError if another run has taken the folder over."""
    if self.lost:
      raise errors.KdError(f'{self.url}: {self.lost}')

  def sync(self) -> None:
    """Uploads what has changed, the oldest first; removes what is gone.

    Raises:
      KdError: another run has taken the folder over, also if nothing changed.
    """
    self.check_owned()
    self._synced_at = time.monotonic()
    changed = []
    for name in _files(self.folder):
      signature = _signature(os.path.join(self.folder, name))
      if _is_copied(name) and self._signatures.get(name) != signature:
        changed.append((signature, name))
    for _, name in sorted(changed):
      self.upload(name)
    self._remove(
      name
      for name in self._generations
      if not os.path.exists(os.path.join(self.folder, name))
    )

  def grew(self) -> None:
    """Uploads what has changed if that was not done lately."""
    if time.monotonic() - self._synced_at > _SYNC_EVERY_S:
      self.sync()

  def _remove(self, names):
    names = list(names)
    if names:
      objects.remove(f'{self.url}/{name}' for name in names)
    for name in names:
      self._forget(name)

  def replace(self, below: str) -> None:
    """Uploads a folder that replaces the one in the bucket.

    Its contents are written first, as incomplete, and last: a reader finds the
    old files, the new ones, or learns that there are neither.
    """
    self.check_owned()
    contents = f'{self.url}/{below}/{CONTENTS}'
    objects.write(contents, b'{"complete": false}\n')
    files = {}
    for name in sorted(_files(os.path.join(self.folder, below))):
      data = self.upload(f'{below}/{name}')
      files[name] = [len(data), hashlib.sha256(data).hexdigest()]
    kept = {*files, CONTENTS}
    objects.remove(
      f'{self.url}/{below}/{name}'
      for name in objects.names(f'{self.url}/{below}')
      if name not in kept
    )
    for name in list(self._generations):
      if name.startswith(f'{below}/') and name[len(below) + 1 :] not in kept:
        self._forget(name)
    value = {'complete': True, 'files': files}
    objects.write(contents, json.dumps(value, indent=1).encode() + b'\n')


_copies: list[_Copy] = []


def local(url: str) -> str:
  """Returns the local copy of a folder in a bucket; downloads it once.

  Raises:
    OSError: the store refuses or does not answer.
  """
  url = url.rstrip('/')
  for copy in _copies:
    if f'{url}/'.startswith(f'{copy.url}/'):
      return copy.folder + url[len(copy.url) :]
  from kd.core import object_files  # fsspec: not for local paths.

  object_files.register()
  copy = _Copy(url)
  copy.download()
  _copies.append(copy)
  return copy.folder


@contextlib.contextmanager
def refused_unless_accessible(path: str, url: str):
  """Within it, a bucket that can't be read or written is the config's fault.

  Args:
    path: of the field or flag that names the URL.
    url: a folder in a bucket.

  Raises:
    ConfigError: there is no such bucket, or this user may not use it.
  """
  try:
    yield
  except (FileNotFoundError, PermissionError) as e:
    raise errors.ConfigError(
      path,
      f'{url!r} cannot be used: {e.strerror}',
      legal='a folder in a bucket that this user can read and write',
    ) from e


def remote(path: str) -> str:
  """Returns the URL of a path in a local copy, of others the absolute path."""
  path = os.path.abspath(path)
  copy, name = _copy_of(path)
  return os.path.join(copy.url, name).rstrip('/') if copy else path


def refresh(folder: str) -> None:
  """Downloads again what has changed in the bucket of a local copy."""
  copy, _ = _copy_of(folder)
  if copy:
    copy.download()


def fetch(folder: str) -> None:
  """Downloads a folder of a local copy, also one that may be large.

  Raises:
    ConfigError: the folder is not whole.
  """
  copy, below = _copy_of(folder)
  if not copy:
    return
  copy.download(below)
  for name in objects.names(f'{copy.url}/{below}'):
    if os.path.basename(name) == CONTENTS:
      _check(copy, os.path.join(below, os.path.dirname(name)))


def _check(copy, below):
  """Raises ConfigError if a folder is not what its contents say."""
  url = f'{copy.url}/{below}'
  read = objects.read(f'{url}/{CONTENTS}').data
  value = json.loads(read or b'{}')
  problem = ''
  if not value.get('complete'):
    problem = 'is incomplete: what wrote it was ended'
  for name, (size, digest) in value.get('files', {}).items():
    path = os.path.join(copy.folder, below, name)
    if not os.path.exists(path):
      problem = f'lacks {name}'
      continue
    with open(path, 'rb') as f:
      data = f.read()
    if [len(data), hashlib.sha256(data).hexdigest()] != [size, digest]:
      problem = f'has another {name} than was written'
  if problem:
    raise errors.ConfigError(url, problem, legal='write it again')


def wrote(path: str) -> None:
  """Uploads a file of a local copy that was written whole."""
  copy, name = _copy_of(path)
  if copy and _is_copied(name):
    copy.upload(name)


def grew(path: str) -> None:
  """Uploads a file of a local copy that grew, but not each time."""
  copy, _ = _copy_of(path)
  if copy:
    copy.grew()


def replaced(folder: str) -> None:
  """Uploads a folder of a local copy that has replaced another."""
  copy, name = _copy_of(folder)
  if copy:
    copy.replace(name)


def sync() -> None:
  """Uploads what has changed in all local copies.

  Raises:
    KdError: another run has taken the folder over.
    OSError: the store refuses or does not answer.
  """
  for copy in _copies:
    copy.sync()


@contextlib.contextmanager
def synced():
  """Uploads what has changed at the end, also where that is an error."""
  try:
    yield
  except BaseException:
    # Do not let an error here hide the original one.
    with contextlib.suppress(OSError, errors.KdError):
      sync()
    raise
  sync()


def lose(folder: str, why: str) -> None:
  """Lets nothing be written any more to the bucket of a local copy."""
  copy, _ = _copy_of(folder)
  copy.lost = why


def shown(text: str) -> str:
  """Returns a text with the URLs of local copies in place of their folders."""
  for copy in _copies:
    text = text.replace(copy.folder, copy.url)
  return text


def _copy_of(path):
  """Returns the copy that a path is in, and its relative name."""
  path = os.path.abspath(path)
  for copy in _copies:
    if f'{path}/'.startswith(f'{copy.folder}/'):
      return copy, path[len(copy.folder) + 1 :]
  return None, ''


def _is_copied(name):
  *folders, name = name.split('/')
  if any(x in _REMOTE or x.startswith('.') for x in folders):
    return False
  return name not in ('', LEASE, CONTENTS) and not name.endswith(_ASIDE)


def _is_wanted(name, below):
  return bool(below) or name.partition('/')[0] not in _ON_DEMAND


def _files(folder):
  return [
    os.path.relpath(os.path.join(parent, name), folder)
    for parent, _, names in os.walk(folder)
    for name in names
  ]


def _signature(path):
  status = os.stat(path)
  return status.st_mtime_ns, status.st_size, status.st_ino
