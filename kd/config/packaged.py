"""The configs that come with kd, which --config accepts by name."""

import os

from kd.core import paths


def names() -> list[str]:
  """Returns the names of the configs."""
  files = os.listdir(_folder())
  stems = [f.removesuffix('.py') for f in files if f.endswith('.py')]
  return sorted(s for s in stems if s != '__init__' and '_test' not in s)


def file(name: str) -> str:
  """Returns the path of the config `name`, which need not exist."""
  return os.path.join(_folder(), f'{name}.py')


def _folder():
  return os.path.join(paths.project_folder(), 'configs')
