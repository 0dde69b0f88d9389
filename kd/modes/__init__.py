"""The modes of the program: `--mode=NAME` runs kd/modes/NAME.py.

A mode is a file of this package with `main(config, workdir)`. The first line of
the file's docstring is its help text. Nothing else lists the modes, and a mode
is imported only when it runs.
"""

import ast
from collections.abc import Callable
import functools
import importlib
import pathlib

import ml_collections

from kd.core import errors

Main = Callable[[ml_collections.ConfigDict, str], None]

_FOLDER = pathlib.Path(__file__).parent


@functools.cache
def helps() -> dict[str, str]:
  """Returns the first line of each mode's docstring, by the mode's name."""
  files = sorted(p for p in _FOLDER.glob('*.py') if p.stem != '__init__')
  return {
    path.stem: ast.get_docstring(ast.parse(path.read_bytes())).splitlines()[0]
    for path in files
    if not path.stem.endswith('_test')
  }


def check_name(name: str, path: str) -> None:
  """Raises ConfigError unless there is a mode of that name.

  Args:
    name: the name.
    path: where it was found, for the message.
  """
  if name not in helps():
    raise errors.unknown(path, 'mode', name, list(helps()))


def load(name: str) -> Main:
  """Returns the function that runs a mode.

  Raises:
    ConfigError: there is no such mode.
  """
  check_name(name, '--mode')
  return importlib.import_module(f'kd.modes.{name}').main
