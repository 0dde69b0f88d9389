"""The modes of the program: `--mode=NAME` runs kd/modes/NAME.py.

A mode is a file of this package with `main(config, workdir)`. The first line of
the file's docstring is its help text. Nothing else lists the modes, and a mode
is imported only when it runs. Constants of a file change how it is called:

  ARGUMENTS = 'MODEL...'   the words that follow its flags, as the help shows
                           them: its main has a third argument, their list, and
                           --workdir may be missing
  CONFIG_OPTIONAL = True   without --config, and without a run in --workdir, its
                           config is the default one
  CONFIG_OF_ARGUMENT = True   the first word that is a run's folder comes before
                           the default: its config is that run's
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
    arguments: the words that follow its flags; empty if it takes none.
    config_optional: whether it runs without a config.
    config_of_argument: whether an argument may be the folder of a run, whose
      config is taken.
  """

  help: str
  arguments: str
  config_optional: bool
  config_of_argument: bool


@functools.cache
def all_modes() -> dict[str, Mode]:
  """Returns all modes by name, as their files describe them."""
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
  """Returns the mode of that name.

  Args:
    name: the name.
    path: where it was found, for the message.

  Raises:
    ConfigError: there is no such mode.
  """
  if name not in all_modes():
    raise errors.unknown(path, 'mode', name, list(all_modes()))
  return all_modes()[name]


def load(name: str) -> Main:
  """Returns the function that runs a mode.

  Raises:
    ConfigError: there is no such mode.
  """
  get(name, '--mode')
  return importlib.import_module(f'kd.modes.{name}').main
