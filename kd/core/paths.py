"""Expands paths as a user writes them in a config or a flag."""

import os

# Stands for the folder that holds the package `kd`. A config that names a file
# of the project with it means the same in every checkout, and in Bazel's copy.
PROJECT = '{project}'


def project_folder() -> str:
  """Returns the absolute path of the folder that holds the package `kd`."""
  package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  return os.path.dirname(package)


def expand(path: str) -> str:
  """Expands `{project}/` and `~` at the beginning of a path."""
  if path == PROJECT or path.startswith(PROJECT + '/'):
    return project_folder() + path[len(PROJECT) :]
  return os.path.expanduser(path)
