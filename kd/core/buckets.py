"""Local copies of folders in buckets, for what needs files.

A run whose workdir is in a bucket works on a copy in a local folder, one for
each process. Its files are downloaded when it begins. What is written whole is
uploaded at once, as one object; files that grow are uploaded at `sync`, before
a checkpoint that counts on them is committed. Checkpoints have no copy: Orbax
writes them into the bucket, from all processes (see `remote`).

A process that is killed loses nothing that a later one needs: its local copy is
never read again.
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
    ConfigError: it is the folder of an export that is not whole.
    OSError: the store refuses or does not answer.
  """
  url = url.rstrip('/')
  path = _local_path(url, is_sparse=False)
  if path is not None:
    copy, name = _copy_of(path)
    if name.partition('/')[0] in bucket_copy.ON_DEMAND:
      fetch(path)
    return path
  from kd.core import object_files  # fsspec: not for local paths.

  object_files.register()
  copy = bucket_copy.Copy(url)
  _download(copy)
  _copies.append(copy)
  return copy.folder


def sparse(url: str) -> str:
  """Returns a local copy of a folder in a bucket that begins empty.

  It holds what `fetch` has downloaded, and `sync` does not upload it: what is
  written whole is uploaded at once, other files by `upload_file`.

  Raises:
    OSError: the store refuses or does not answer.
  """
  url = url.rstrip('/')
  path = _local_path(url, is_sparse=True)
  if path is None:
    objects.read(f'{url}/')  # Refused unless it may be read.
    _copies.append(bucket_copy.Copy(url, is_sparse=True))
    path = _copies[-1].folder
  return path


def _local_path(url, is_sparse):
  """Returns where a copy has a URL; None if no such copy has it."""
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
  """Within it, a bucket that can't be read or written is the config's fault.

  Raises:
    ConfigError: there is no such bucket, or this user may not use it.
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
  """Returns the URL of a path in a local copy, of others the absolute path."""
  path = os.path.abspath(path)
  copy, name = _copy_of(path)
  return os.path.join(copy.url, name).rstrip('/') if copy else path


def is_copy(path: str) -> bool:
  """Returns whether a path is in a local copy."""
  return _copy_of(path)[0] is not None


def names(folder: str) -> list[str]:
  """Returns the names of the objects below a folder of a local copy.

  They are relative to the folder; of any other folder there are none.
  """
  copy, below = _copy_of(folder)
  return objects.names(f'{copy.url}/{below}'.rstrip('/')) if copy else []


def refresh(path: str) -> None:
  """Downloads again what has changed in the bucket of a local copy.

  Raises:
    ConfigError: it is the folder of an export that is not whole.
  """
  copy, _ = _copy_of(path)
  if copy:
    _download(copy)


def fetch(path: str, check: bool = True) -> None:
  """Downloads a folder or file of a local copy, also one that may be large.

  Args:
    path: the folder or file.
    check: compares folders with their contents, see upload_folder.

  Raises:
    ConfigError: a folder is not whole.
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
  """Uploads a file of a local copy that was written whole."""
  copy, name = _copy_of(path)
  if copy and bucket_copy.is_copied(name):
    copy.upload_file(name)


def upload_if_due(path: str) -> None:
  """Uploads a file of a local copy that grew, but not each time."""
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
    OSError: the store refuses or does not answer.
  """
  for copy in _copies:
    if not copy.is_sparse:
      copy.sync()


@contextlib.contextmanager
def synced() -> Iterator[None]:
  """Uploads what has changed at the end, also where that is an error."""
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
  """Sets when the lease of a local copy's bucket ends if it is not renewed.

  Args:
    folder: the local copy.
    time_s: of time.monotonic.
  """
  copy, _ = _copy_of(folder)
  copy.held_until = time_s


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
