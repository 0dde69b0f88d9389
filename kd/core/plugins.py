"""Imports the user's modules, which add to kd's registries (docs/extend.md).

A config lists them in `plugins`. They are imported before the config's other
fields are checked, since these may name what the modules register.
"""

from collections.abc import Sequence
import importlib
import importlib.util

from kd.core import errors
from kd.core import user_errors

PATH = 'plugins'

_loaded: list[str] = []


def load(names: Sequence[str]) -> None:
  """Imports modules, each once.

  Raises:
    ConfigError: the module does not exist, or its import fails; shows the
      module's own lines.
  """
  for name in names:
    if name not in _loaded:
      _import(name)
      _loaded.append(name)


def loaded() -> tuple[str, ...]:
  """Returns the names of the plugins loaded in this process."""
  return tuple(_loaded)


def _import(name):
  importlib.invalidate_caches()
  try:
    importlib.import_module(name)
  except errors.KdError:
    raise
  except ModuleNotFoundError as e:
    if e.name is None or not f'{name}.'.startswith(f'{e.name}.'):
      raise user_errors.refuse(e, PATH, f'importing {name!r} failed') from e
    raise errors.ConfigError(
      PATH,
      f'there is no Python module {name!r}',
      legal='modules of the current folder, of $PYTHONPATH or of an installed '
      'package',
    ) from e
  except (Exception, SystemExit) as e:  # The user's code may raise anything.
    raise user_errors.refuse(e, PATH, f'importing {name!r} failed') from e
