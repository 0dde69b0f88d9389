"""Expands paths as a user writes them in a config or a flag."""

import os

from kd.core import buckets
from kd.core import objects

# Stands for the folder that holds configs/ and data/. A config that names a
# file of the project with it means the same in every checkout, in Bazel's copy
# and in an installed wheel.
PROJECT = '{project}'


def package_folder() -> str:
  """Returns the absolute path of the package `kd`."""
  return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def project_folder() -> str:
  """Returns the absolute path of the folder that holds configs/ and data/.

  That is the package itself where the wheel is installed.
  """
  package = package_folder()
  return os.path.dirname(package) if is_checkout() else package


def is_checkout() -> bool:
  """Returns whether this program is a checkout, or Bazel's copy of one."""
  return not os.path.isdir(os.path.join(package_folder(), 'configs'))


def expand(path: str) -> str:
  """Expands `{project}/` and `~` at the beginning of a path.

  A folder or file in a bucket is downloaded: returns its copy, see buckets.

  Raises:
    ConfigError: the bucket cannot be read.
  """
  if objects.is_url(path):
    with buckets.refused_unless_accessible(path):
      return buckets.local(path)
  return _expand_local(path)


def expand_sparse(path: str) -> str:
  """Expands the path of a folder; one in a bucket has an empty copy.

  See buckets.sparse.

  Raises:
    ConfigError: the bucket cannot be read.
  """
  if objects.is_url(path):
    with buckets.refused_unless_accessible(path):
      return buckets.sparse(path)
  return _expand_local(path)


def _expand_local(path):
  if path == PROJECT or path.startswith(PROJECT + '/'):
    return project_folder() + path[len(PROJECT) :]
  return os.path.expanduser(path)
