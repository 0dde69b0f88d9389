"""Expands paths that users write in configs and flags."""

import os

from kd.core import buckets
from kd.core import objects

# Stands for the folder that contains configs/ and data/, so that configs can
# name files of the project in any checkout, Bazel's copy or installed wheel.
PROJECT = '{project}'


def package_folder() -> str:
  """Returns the absolute path of the package `kd`."""
  return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def project_folder() -> str:
  """Returns the absolute path of the folder that contains configs/ and data/.

  In an installed wheel, that is the package itself.
  """
  package = package_folder()
  return os.path.dirname(package) if is_checkout() else package


def is_checkout() -> bool:
  """Returns whether kd runs from a checkout, or Bazel's copy of one."""
  return not os.path.isdir(os.path.join(package_folder(), 'configs'))


def expand(path: str) -> str:
  """Expands `{project}/` and `~` at the beginning of a path.

  A folder or file in a bucket is downloaded, and the path of the local copy is
  returned; see buckets.

  Raises:
    ConfigError: the bucket cannot be read.
  """
  if objects.is_url(path):
    with buckets.refused_unless_accessible(path):
      return buckets.local(path)
  return _expand_local(path)


def expand_sparse(path: str) -> str:
  """Expands the path of a folder; one in a bucket gets a sparse copy.

  See buckets.sparse.

  Raises:
    ConfigError: the bucket cannot be read.
  """
  if objects.is_url(path):
    with buckets.refused_unless_accessible(path):
      return buckets.sparse(path)
  return _expand_local(path)


def expand_file(path: str) -> str:
  """Expands the path of a file that is going to be written.

  The copy of a file in a bucket is uploaded while it grows, and at the end; see
  buckets.file.

  Raises:
    ConfigError: the bucket cannot be used, or kd uses the name itself.
  """
  if objects.is_url(path):
    with buckets.refused_unless_accessible(path):
      return buckets.file(path)
  return _expand_local(path)


def _expand_local(path):
  if path == PROJECT or path.startswith(PROJECT + '/'):
    return project_folder() + path[len(PROJECT) :]
  return os.path.expanduser(path)
