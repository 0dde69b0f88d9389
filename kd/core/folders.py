"""Names new folders, and checks folders that a run is going to write."""

import os
import uuid

from kd.core import errors
from kd.core import paths

_LONGEST_NAME = 255  # bytes, on all common file systems
_OF_THE_KERNEL = ('/proc', '/sys', '/dev')


def new_name(parent: str, prefix: str) -> str:
  """Returns an unused path for a file or folder that is renamed later.

  What is created there gets its permissions from the umask; the functions of
  `tempfile` make everything readable only by its owner.

  Args:
    parent: the parent folder.
    prefix: prefix of the name.
  """
  return os.path.join(parent, prefix + uuid.uuid4().hex[:16])


def check_writable(path: str, field: str) -> None:
  """Refuses a folder that cannot be created or written; writes nothing.

  Args:
    path: the folder, as the user wrote it.
    field: the field or flag that names it.

  Raises:
    ConfigError: the folder cannot be written; names the field and the reason.
  """
  folder = os.path.abspath(paths.expand_sparse(path))
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
      field, f'found {path!r}, and {there!r} is not a folder', legal
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
