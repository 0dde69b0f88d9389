"""Makes folders, and checks those that a run is going to write."""

import os
import uuid

from kd.core import errors
from kd.core import paths

_LONGEST_NAME = 255  # bytes of one name, on all usual file systems
_OF_THE_KERNEL = ('/proc', '/sys', '/dev')


def new_name(parent: str, prefix: str) -> str:
  """Returns a path that nothing has, for what is renamed later.

  What is made there has the permissions that the umask gives; the functions of
  `tempfile` make everything readable by its owner alone.

  Args:
    parent: the folder.
    prefix: what the name begins with.
  """
  return os.path.join(parent, prefix + uuid.uuid4().hex[:16])


def check_writable(path: str, field: str) -> None:
  """Refuses a folder that cannot be made or written; writes nothing.

  Args:
    path: the folder, as the user wrote it.
    field: the field or flag that names it.

  Raises:
    ConfigError: names the field, and what is in the way.
  """
  folder = os.path.abspath(paths.expand(path))
  legal = 'a folder that this user can write'
  if any(len(os.fsencode(x)) > _LONGEST_NAME for x in folder.split(os.sep)):
    raise errors.ConfigError(
      field, f'found a path with a name of over {_LONGEST_NAME} bytes', legal
    )
  there = folder
  while not os.path.lexists(there):
    there = os.path.dirname(there)
  if not os.path.isdir(there):
    raise errors.ConfigError(
      field, f'found {path!r}, and {there!r} is no folder', legal
    )
  real = os.path.realpath(there)
  kernels = real.startswith(tuple(f'{x}/' for x in _OF_THE_KERNEL))
  if real in _OF_THE_KERNEL or (kernels and not real.startswith('/dev/shm')):
    raise errors.ConfigError(
      field, f'found {path!r}, in a file system of the kernel', legal
    )
  if not os.access(there, os.W_OK | os.X_OK):
    raise errors.ConfigError(
      field, f'found {path!r}, and {there!r} cannot be written', legal
    )
