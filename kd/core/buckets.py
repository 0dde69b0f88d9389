"""Local copies of folders in buckets, for code that needs files.

If the workdir of a run is in a bucket, each process works on a copy in a local
folder, which it downloads at the start. Files written as a whole are uploaded
at once, as one object. Files that grow are uploaded by `sync`, before a
checkpoint that depends on them is committed. Checkpoints are not copied: Orbax
writes them directly into the bucket, from all processes (see `remote`).

The local copy of a killed process is never read again, and nothing in it is
needed by a later one.
"""

from collections.abc import Iterator
import contextlib
import os

from kd.core import bucket_copy
from kd.core import errors
from kd.core import objects

LEASE = bucket_copy.LEASE

_copies: list[bucket_copy.Copy] = []


def local(url: str) -> str:
  """Returns the local copy of a folder or file in a bucket; downloads it once.

  Raises:
    ConfigError: the folder contains an incomplete export.
    OSError: the store refuses the request or does not respond.
  """
  url = url.rstrip('/')
  path = _local_path(url, is_sparse=False)
  if path is not None:
    copy, name = _copy_of(path)
    if name.partition('/')[0] in bucket_copy.ON_DEMAND:
      fetch(path)
    return path
  from kd.core import object_files  # Imports fsspec, only needed for buckets.

  object_files.register()
  copy = bucket_copy.Copy(url)
  _download(copy)
  _copies.append(copy)
  return copy.folder


def file(url: str) -> str:
  """Returns the local copy of a file in a bucket that is going to be written.

  An existing file is downloaded. Like other files that grow, it is uploaded by
  `sync`.

  Raises:
    ConfigError: a file with this name would not be uploaded.
    OSError: the store refuses the request or does not respond.
  """
  path = local(url)
  copy, name = _copy_of(path)
  if not copy.is_copied(name):
    raise errors.ConfigError(
      url, 'is a name that kd uses itself', legal='another name'
    )
  if not name and os.path.isdir(path) and not os.listdir(path):
    os.rmdir(path)  # A copy begins as a folder.
  return path


def sparse(url: str) -> str:
  """Returns an initially empty local copy of a folder in a bucket.

  It contains what `fetch` downloads. `sync` does not upload it: files written
  as a whole are uploaded at once, other files by `upload_file`.

  Raises:
    OSError: the store refuses the request or does not respond.
  """
  url = url.rstrip('/')
  path = _local_path(url, is_sparse=True)
  if path is None:
    objects.read(f'{url}/')  # Raises unless this user may read it.
    _copies.append(bucket_copy.Copy(url, is_sparse=True))
    path = _copies[-1].folder
  return path


def _local_path(url, is_sparse):
  """Returns the local path of a URL; None if no such copy contains it."""
  for copy in _copies:
    inside = f'{url}/'.startswith(f'{copy.url}/')
    if inside and copy.is_sparse == is_sparse:
      return copy.folder + url[len(copy.url) :]
  return None


def _download(copy):
  copy.download()
  contents = objects.read(f'{copy.url}/{bucket_copy.CONTENTS}').data
  if contents is not None:
    copy.check('')


@contextlib.contextmanager
def refused_unless_accessible(url: str) -> Iterator[None]:
  """Raises ConfigError if the block cannot read or write a bucket.

  Raises:
    ConfigError: the bucket does not exist, or this user may not use it.
  """
  try:
    yield
  except (FileNotFoundError, PermissionError) as e:
    raise errors.ConfigError(
      url,
      f'cannot be used: {e.strerror}',
      legal='a bucket that this user can read and, for a workdir, write',
    ) from e


def remote(path: str) -> str:
  """Returns the URL of a path in a local copy, or else the absolute path."""
  path = os.path.abspath(path)
  copy, name = _copy_of(path)
  return os.path.join(copy.url, name).rstrip('/') if copy else path


def is_copy(path: str) -> bool:
  """Returns whether a path is in a local copy."""
  return _copy_of(path)[0] is not None


def names(folder: str) -> list[str]:
  """Returns the names of the objects below a folder of a local copy.

  The names are relative to the folder. For any other folder the list is empty.
  """
  copy, below = _copy_of(folder)
  return objects.names(f'{copy.url}/{below}'.rstrip('/')) if copy else []


def refresh(path: str) -> None:
  """Downloads what has changed in the bucket of a local copy.

  Raises:
    ConfigError: the folder contains an incomplete export.
  """
  copy, _ = _copy_of(path)
  if copy:
    _download(copy)


def fetch(path: str, check: bool = True) -> None:
  """Downloads a folder or file of a local copy, even one that may be large.

  Args:
    path: the folder or file.
    check: whether to compare folders with their lists of contents; see
      upload_folder.

  Raises:
    ConfigError: a folder is incomplete.
  """
  copy, below = _copy_of(path)
  if not copy:
    return
  copy.download(below)
  if not check:
    return
  for name in objects.names(f'{copy.url}/{below}'):
    if os.path.basename(name) == bucket_copy.CONTENTS:
      copy.check(os.path.join(below, os.path.dirname(name)))


def upload_file(path: str) -> None:
  """Uploads a file of a local copy that was written as a whole."""
  copy, name = _copy_of(path)
  if copy and copy.is_copied(name):
    copy.upload_file(name)


def upload_if_due(path: str) -> None:
  """Uploads a growing file of a local copy unless that was done recently."""
  copy, _ = _copy_of(path)
  if copy and not copy.is_sparse:
    copy.upload_if_due()


def upload_folder(folder: str) -> None:
  """Uploads a folder of a local copy that has replaced another."""
  copy, name = _copy_of(folder)
  if copy:
    copy.upload_folder(name)


def sync() -> None:
  """Uploads what has changed in all local copies.

  Raises:
    KdError: another run has taken the folder over.
    OSError: the store refuses the request or does not respond.
  """
  for copy in _copies:
    if not copy.is_sparse:
      copy.sync()


@contextlib.contextmanager
def synced() -> Iterator[None]:
  """Uploads what has changed at the end, even after an error."""
  try:
    yield
  except BaseException:
    # Do not let an error here hide the original one.
    with contextlib.suppress(OSError, errors.KdError):
      sync()
    raise
  sync()


def stop_writes(folder: str, why: str) -> None:
  """Stops all writes to the bucket of a local copy."""
  copy, _ = _copy_of(folder)
  copy.stopped = why


def hold_until(folder: str, time_s: float) -> None:
  """Sets the time at which the lease of a local copy ends unless renewed.

  Args:
    folder: the local copy.
    time_s: end of the lease in seconds, on the clock of time.monotonic.
  """
  copy, _ = _copy_of(folder)
  copy.held_until = time_s


def shown(text: str) -> str:
  """Replaces the folders of local copies in a text by their URLs."""
  for copy in _copies:
    text = text.replace(copy.folder, copy.url)
  return text


def _copy_of(path):
  """Returns the copy that contains a path, and its name relative to it."""
  path = os.path.abspath(path)
  for copy in _copies:
    if f'{path}/'.startswith(f'{copy.folder}/'):
      return copy, path[len(copy.folder) + 1 :]
  return None, ''
