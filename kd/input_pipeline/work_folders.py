"""Folders in which shards are prepared, until they are complete.

Their names follow from what is prepared: who prepares the same finds one, with
the shards that are complete, and may help.
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
_OLD = (_PREFIX, '.writing-')  # The second is of earlier versions.
_OLD_S = 7 * 24 * 3600.0


class GoneError(Exception):
  """A folder that another process has given its name."""


@contextlib.contextmanager
def entered(stem: str, key: str) -> Iterator[tuple[str, claims_lib.Claims]]:
  """Makes or enters a folder; yields it, and what claims pieces of work in it.

  After an error of the data, and after any other without a complete shard, the
  folder is removed, unless another process works in it.

  Args:
    stem: what the path of the folder begins with once it is complete.
    key: identifies what is prepared.

  Raises:
    GoneError: instead of any other Exception, if the folder is gone: another
      process has completed it.
  """
  if buckets.is_copy(stem):
    with _entered_in_bucket(stem, key) as both:
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
    # Without the claims of this process.
    if _is_useless(e, os.listdir(folder)):
      shutil.rmtree(folder, ignore_errors=True)
    raise


@contextlib.contextmanager
def _entered_in_bucket(stem, key):
  """Enters a folder of a bucket, which has its name from the beginning.

  A bucket cannot rename: the manifest, which is written last, makes the folder
  count. If that folder already has a manifest, takes the next number.
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
  """Returns whether to remove a folder after an error, by its files' names."""
  complete = any(name.endswith(shard_files.COUNTS) for name in names)
  is_useless = isinstance(error, errors.ConfigError) or not complete
  return is_useless and not any(map(claims_lib.is_claim, names))


def rename(folder: str, name: str, files: Sequence[str]) -> None:
  """Gives a complete folder its name.

  Args:
    folder: from `entered`.
    name: its new path.
    files: what belongs to it; the last one makes the others count.
  """
  atomic_files.sync(folder)
  try:
    os.rename(folder, name)
  except OSError:
    if not os.path.isdir(name):
      raise
    # The same rows, of an earlier day, whose files may have been damaged since.
    for file in files:
      os.replace(os.path.join(folder, file), os.path.join(name, file))
    shutil.rmtree(folder)
  # Until now claims kept other processes away, and counts were what a process
  # that was killed here would have found again.
  for other in set(os.listdir(name)) - set(files):
    path = os.path.join(name, other)
    if os.path.isdir(path):
      shutil.rmtree(path)
    else:
      os.unlink(path)
  atomic_files.sync(os.path.dirname(name))


def remove_old(parent: str) -> None:
  """Removes what nobody has worked on for a week."""
  for name in os.listdir(parent):
    path = os.path.join(parent, name)
    if name.startswith(_OLD):
      with contextlib.suppress(FileNotFoundError):
        if time.time() - os.stat(path).st_mtime > _OLD_S:
          shutil.rmtree(path, ignore_errors=True)
