"""The modes of the program: `--mode=NAME` runs kd/modes/NAME.py.

A mode is a file of this package with `main(config, workdir)`. The first line of
the file's docstring is its help text. There is no other list of modes, and a
mode is imported only when it runs. Constants of a file change how it is called:

  ARGUMENTS = 'MODEL...'   its arguments besides the flags, as shown in the
                           help; main gets their list as a third argument, and
                           --workdir is optional
  CONFIG_OPTIONAL = True   uses the default config if there is neither --config
                           nor a run in --workdir
  CONFIG_OF_ARGUMENT = True   uses the config of the first argument that is the
                           folder of a run, before the default one
"""

import ast
from collections.abc import Callable
import dataclasses
import functools
import importlib
import pathlib

from kd.core import errors

Main = Callable[..., None]

_FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Mode:
  """How a mode is called.

  Attributes:
    help: the first line of its docstring.
    arguments: its arguments besides the flags; empty if it takes none.
    config_optional: whether it runs without a config.
    config_of_argument: whether to use the config of an argument that is the
      folder of a run.
  """

  help: str
  arguments: str
  config_optional: bool
  config_of_argument: bool


@functools.cache
def all_modes() -> dict[str, Mode]:
  """Returns all modes by name."""
  files = sorted(p for p in _FOLDER.glob('*.py') if p.stem != '__init__')
  return {p.stem: _read(p) for p in files if not p.stem.endswith('_test')}


def _read(path: pathlib.Path) -> Mode:
  tree = ast.parse(path.read_bytes())
  constants = {
    node.targets[0].id: node.value.value
    for node in tree.body
    if isinstance(node, ast.Assign)
    and isinstance(node.targets[0], ast.Name)
    and isinstance(node.value, ast.Constant)
  }
  return Mode(
    ast.get_docstring(tree).splitlines()[0],
    constants.get('ARGUMENTS', ''),
    constants.get('CONFIG_OPTIONAL', False),
    constants.get('CONFIG_OF_ARGUMENT', False),
  )


def get(name: str, path: str) -> Mode:
  """Returns a mode.

  Args:
    name: name of the mode.
    path: flag or other source of the name, for the message.

  Raises:
    ConfigError: the mode does not exist.
  """
  if name not in all_modes():
    raise errors.unknown(path, 'mode', name, list(all_modes()))
  return all_modes()[name]


def load(name: str) -> Main:
  """Returns the function that runs a mode.

  Raises:
    ConfigError: the mode does not exist.
  """
  get(name, '--mode')
  return importlib.import_module(f'kd.modes.{name}').main
