"""Finds the source files that a task module depends on, without running it."""

import ast
from collections.abc import Iterator
import dataclasses
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import types

from kd.core import errors
from kd.core import identity
from kd.core import plugins
from kd.core import user_errors
from kd.data_files import chats
from kd.data_files import column_rows
from kd.data_files import examples
from kd.data_files import json_rows
from kd.data_files import locations
from kd.data_files import source
from kd.input_pipeline import conversations
from kd.input_pipeline import encoding
from kd.input_pipeline import packing
from kd.input_pipeline import plain_template
from kd.input_pipeline import shard_files
from kd.input_pipeline import shards
from kd.input_pipeline import templates
from kd.models import chat_turns
from kd.models import families

# The modules of kd that determine the row of given texts.
_ROW_CODE = (
  *(conversations, encoding, packing, shard_files, shards, templates),
  *(chat_turns, chats, examples, plain_template, source),
  *(column_rows, json_rows, locations),
)
# Modules that a plugin imports to register tasks and chat templates.
_OF_ROWS = {
  *('seqio', 'kd.input_pipeline.text_tasks'),
  *('kd.models.chat_turns', 'kd.input_pipeline.templates'),
}
# Excludes variables that libraries set when they are imported.
_VARIABLE = re.compile('(?!TF_|JAX_|XLA_)[A-Z][A-Z0-9_]+')


@dataclasses.dataclass(frozen=True)
class TaskCode:
  """The source files of a task module and of its imports.

  Attributes:
    module: name of the task module.
    digest: SHA-256 (hex) of the files' names and contents, and of the code that
      converts texts to rows.
    files: absolute paths of the files by module name.
    folder: folder that contains the module or its top package.
    variables: values of the environment variables that the files name.
  """

  module: str
  digest: str
  files: dict[str, str]
  folder: str
  variables: dict[str, str]


def find(module: str) -> TaskCode:
  """Finds the source files of a module through its import statements.

  Follows imports anywhere in a file, of the module's own package, of kd, and of
  all modules that are neither installed packages nor part of Python. A module
  that is imported by a computed name is not found: list its file in DATA_FILES.
  Plugins that may register tasks or chat templates are included.

  Args:
    module: name of an importable module, e.g. 'kd.data.mixtures'; '' if all
      data is in files.

  Raises:
    ConfigError: there is no such module, or a file has a syntax error.
  """
  importlib.invalidate_caches()
  spec = _top_spec(module.partition('.')[0]) if module else None
  if module and (spec is None or _find_spec(module) is None):
    raise _no_module(module)
  walk = _Walk(module.partition('.')[0])
  if module:
    walk.visit(module)
  for plugin in plugins.loaded():
    other = _Walk(plugin.partition('.')[0])
    other.visit(plugin)
    if other.makes_rows:
      walk.files |= other.files
      walk.variables |= other.variables
  where = ''
  if spec is not None:
    where = spec.origin or next(iter(spec.submodule_search_locations))
  return TaskCode(
    module,
    _digest(walk.files),
    walk.files,
    os.path.dirname(os.path.realpath(where)) if where else '',
    {
      name: os.environ[name]
      for name in sorted(walk.variables)
      if name in os.environ
    },
  )


def _digest(files: dict[str, str]) -> str:
  """Returns a digest of files by module, and of the code that makes rows."""
  digest = hashlib.sha256()
  builtin = families.chat_templates().values()
  writers = {inspect.getmodule(template.render) for template in builtin}
  for code in sorted({*_ROW_CODE, *writers}, key=lambda m: m.__name__):
    _update(digest, code.__name__, _read(code.__file__))
  for name, path in sorted(files.items()):
    _update(digest, name, _read(path))
  return digest.hexdigest()


def plugin_digests() -> dict[str, str]:
  """Returns the digests of the plugins' own source files, by plugin."""
  digests = {}
  for plugin in plugins.loaded():
    walk = _Walk(plugin.partition('.')[0])
    walk.visit(plugin)
    own = sorted(n for n in walk.files if n.partition('.')[0] != 'kd')
    digests[plugin] = identity.bytes_digest(
      *(
        part
        for name in own
        for part in (name.encode(), _read(walk.files[name]))
      )
    )
  return digests


def import_module(module: str) -> types.ModuleType:
  """Imports a module that registers tasks.

  Raises:
    ConfigError: there is no such module, or importing it fails.
  """
  if _find_spec(module) is None:
    raise _no_module(module)
  try:
    return importlib.import_module(module)
  except errors.KdError:
    raise
  except Exception as e:  # The user's code may raise anything.
    raise user_errors.refuse(
      e, 'data.module', f'importing {module!r} failed', _nearest(e)
    ) from e


def _nearest(error: Exception) -> str:
  """Returns the task with the name closest to one that a mixture misspells."""
  missing = re.fullmatch(r'Provider name not registered: (.*)', str(error))
  if not missing or 'seqio' not in sys.modules:
    return ''
  seqio = importlib.import_module('seqio')
  names = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  return errors.nearest(missing.group(1), sorted(names))


def _no_module(module: str) -> errors.ConfigError:
  return errors.ConfigError(
    'data.module',
    f'there is no Python module {module!r}',
    legal="a module that registers seqio tasks, such as 'kd.data.mixtures'",
    # Modules of earlier versions have moved there.
    nearest=f'kd.{module}' if _find_spec(f'kd.{module}') else '',
  )


class _Walk:
  """Visits the files of a module and of the modules that it imports."""

  def __init__(self, top: str):
    self._own = (top, 'kd')
    self._seen: set[str] = set()
    self.files: dict[str, str] = {}
    self.makes_rows = False  # anywhere but in kd
    self.variables: set[str] = set()

  def visit(self, name: str) -> None:
    """Adds the files of a module, its packages and its imports, if relevant."""
    # Skips kd itself, which does not make rows, and templates, which imports
    # the models of all families: `_digest` includes their relevant code.
    self._seen.update(('kd', templates.__name__))
    pending = [name]
    while pending:
      name = pending.pop()
      if name in self._seen:
        continue
      self._seen.add(name)
      if not self._counts(name.partition('.')[0]):
        continue
      spec = _find_spec(name)
      pending += [name.rpartition('.')[0]] if '.' in name else []
      if spec is None or spec.origin is None:
        continue  # An attribute of a module, or a folder without __init__.py.
      path = os.path.abspath(spec.origin)
      self.files[name] = path
      if path.endswith('.py'):
        package = name if spec.submodule_search_locations else ''
        package = package or name.rpartition('.')[0]
        tree = _parse(path)
        imported = list(_imported(tree, package))
        pending += imported
        if name.partition('.')[0] != 'kd':
          self.makes_rows |= not _OF_ROWS.isdisjoint(imported)
        self.variables |= _variables(tree)

  def _counts(self, top):
    spec = _top_spec(top)
    if spec is None:
      return False
    return top in self._own or not _installed_spec(spec)


def _top_spec(top: str) -> importlib.machinery.ModuleSpec | None:
  try:
    return importlib.util.find_spec(top)
  except (ModuleNotFoundError, ValueError):
    return None


def _find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
  """Returns a module's spec without importing its packages."""
  top, *rest = name.split('.')
  spec = _top_spec(top)
  for part in rest:
    if spec is None or spec.submodule_search_locations is None:
      return None
    spec = importlib.machinery.PathFinder.find_spec(
      f'{spec.name}.{part}', list(spec.submodule_search_locations)
    )
  return spec


def _installed_spec(spec: importlib.machinery.ModuleSpec) -> bool:
  paths = list(spec.submodule_search_locations or [])
  if spec.origin in ('built-in', 'frozen'):
    return True
  paths += [spec.origin] if spec.origin else []
  return all(user_errors.is_installed(path) for path in paths)


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
  """Yields the names that a file's import statements may load."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        parents = package.split('.')
        parents = parents[: len(parents) - node.level + 1]
        base = '.'.join([*parents, base] if base else parents)
      yield base
      yield from (f'{base}.{alias.name}' for alias in node.names)


def _variables(tree: ast.AST) -> set[str]:
  """Returns the strings that may be names of environment variables."""
  return {
    node.value
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant)
    and isinstance(node.value, str)
    and _VARIABLE.fullmatch(node.value)
  }


def _parse(path: str) -> ast.AST:
  try:
    return ast.parse(_read(path))
  except (SyntaxError, ValueError, RecursionError) as e:
    line = getattr(e, 'lineno', None)
    raise errors.ConfigError(
      f'{path}:{line}' if line else path,
      f'is not Python ({getattr(e, "msg", e)})',
      legal='a module that Python can import',
    ) from e


def _read(path: str) -> bytes:
  with open(path, 'rb') as f:
    return f.read()


def _update(digest: 'hashlib._Hash', name: str, data: bytes) -> None:
  digest.update(f'{len(name)}:{name}:{len(data)}:'.encode() + data)
