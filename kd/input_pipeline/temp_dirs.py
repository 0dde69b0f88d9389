"""Folders that are written aside, and what dead processes left of them."""

import contextlib
import fcntl
import os
import shutil

from kd.core import folders

_PREFIX = '.writing-'


def make(parent: str) -> tuple[str, int]:
  """A new folder, and a descriptor that locks it as long as it is open."""
  new = folders.new_name(parent, '.new-')
  os.mkdir(new)
  descriptor = os.open(new, os.O_RDONLY)
  with contextlib.suppress(OSError):  # Not every file system has locks.
    fcntl.flock(descriptor, fcntl.LOCK_EX)
  # Only now: what has this name and no lock is abandoned.
  aside = os.path.join(parent, _PREFIX + os.path.basename(new)[1:])
  os.rename(new, aside)
  return aside, descriptor


def remove(parent: str) -> None:
  """Removes what `make` made for processes that have died."""
  for name in os.listdir(parent):
    if not name.startswith(_PREFIX):
      continue
    try:
      descriptor = os.open(os.path.join(parent, name), os.O_RDONLY)
    except OSError:
      continue
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
    except OSError:
      pass  # Whoever holds it lives, or nobody can tell.
    finally:
      os.close(descriptor)
