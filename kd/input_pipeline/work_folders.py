"""Manages the folders in which shards are prepared until they are complete.

Their names are derived from the request, so that processes with the same
request use the same folder, reuse its complete shards and share the work.
"""

from collections.abc import Iterator, Sequence
import contextlib
import itertools
import os
import shutil
import time

from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import objects
from kd.input_pipeline import claims as claims_lib
from kd.input_pipeline import object_claims
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import shard_files

_PREFIX = '.shards-'
_OLD = (_PREFIX, '.writing-')  # The second is that of earlier versions.
_OLD_S = 7 * 24 * 3600.0


class GoneError(Exception):
  """Another process has completed and renamed the folder."""


@contextlib.contextmanager
def work_folder(stem: str, key: str) -> Iterator[tuple[str, claims_lib.Claims]]:
  """Creates or enters a folder; yields its path and the claims in it.

  After an error in the data, or any other error if no shard is complete, the
  folder is removed, unless another process works in it.

  Args:
    stem: prefix of the folder's path once it is complete.
    key: identifies the request.

  Raises:
    GoneError: another process has completed the folder; raised instead of any
      other Exception.
  """
  if buckets.is_copy(stem):
    with _bucket_folder(stem, key) as both:
      yield both
    return
  folder = os.path.join(os.path.dirname(stem), _PREFIX + key)
  os.makedirs(folder, exist_ok=True)
  try:
    with claims_lib.Claims(folder) as claims:
      yield folder, claims
  except BaseException as e:
    if not os.path.isdir(folder):
      if isinstance(e, Exception):
        raise GoneError(folder) from e
      raise
    # The claims of this process have been released.
    if _is_useless(e, os.listdir(folder)):
      shutil.rmtree(folder, ignore_errors=True)
    raise


@contextlib.contextmanager
def _bucket_folder(stem, key):
  """Enters a folder of a bucket, which has its final name from the beginning.

  Buckets cannot rename folders, so the manifest, which is written last, marks
  the folder as complete. Folders with a manifest are skipped.
  """
  numbers = itertools.count()
  folders = (f'{stem}-{key}-{number}' for number in numbers)
  folder = next(f for f in folders if not prepared_lib.is_complete(f))
  os.makedirs(folder, exist_ok=True)
  url = buckets.remote(folder)
  try:
    with object_claims.ObjectClaims(url) as claims:
      yield folder, claims
  except BaseException as e:
    with contextlib.suppress(OSError):
      if _is_useless(e, objects.names(url)):
        objects.remove_folder(url)
    raise


def _is_useless(error, names):
  """Returns whether to remove a folder with certain files after an error."""
  complete = any(name.endswith(shard_files.COUNTS) for name in names)
  is_useless = isinstance(error, errors.ConfigError) or not complete
  return is_useless and not any(map(claims_lib.is_claim, names))


def rename(folder: str, name: str, files: Sequence[str]) -> None:
  """Renames a complete folder to its final name.

  Args:
    folder: a folder of `work_folder`.
    name: final path of the folder.
    files: names of the folder's files, ending with the manifest.
  """
  atomic_files.sync(folder)
  try:
    os.rename(folder, name)
  except OSError:
    if not os.path.isdir(name):
      raise
    # The same rows exist, but their files may have been damaged since.
    for file in files:
      os.replace(os.path.join(folder, file), os.path.join(name, file))
    shutil.rmtree(folder)
  # Only now remove the claims, which kept other processes away, and the counts,
  # which are needed to resume if this process is killed before.
  for other in set(os.listdir(name)) - set(files):
    path = os.path.join(name, other)
    if os.path.isdir(path):
      shutil.rmtree(path)
    else:
      os.unlink(path)
  atomic_files.sync(os.path.dirname(name))


def remove_old(parent: str) -> None:
  """Removes folders that have not been modified for a week."""
  for name in os.listdir(parent):
    path = os.path.join(parent, name)
    if name.startswith(_OLD):
      with contextlib.suppress(FileNotFoundError):
        if time.time() - os.stat(path).st_mtime > _OLD_S:
          shutil.rmtree(path, ignore_errors=True)
