"""Reads the units and imports of the project's Python files."""

import ast
import dataclasses
import os

TOP_PACKAGES = (
  'benchmarks',
  'configs',
  'data',
  'docs',
  'experiments',
  'kd',
  'tests',
  'tools',
)
# These folders are imported as parts of the package kd; see kd/__init__.py.
IN_KD = ('configs', 'data')


@dataclasses.dataclass(frozen=True)
class Import:
  """One imported module.

  Attributes:
    module: full name of the module. For `from a import b` it is 'a.b' if that
      is a module of the project or `a` is not in the project, else 'a'.
      kd.configs and kd.data are named after their folders, configs and data.
    line: line number of the statement.
    lazy: whether the import is inside a function.
    name: the imported name of a first-party `from` statement if it is not a
      module, else ''.
    by_folder: whether the statement names configs or data without kd.
  """

  module: str
  line: int
  lazy: bool
  name: str = ''
  by_folder: bool = False

  def within(self, prefix):
    return self.module == prefix or self.module.startswith(f'{prefix}.')


@dataclasses.dataclass(frozen=True)
class Source:
  """One file: its path relative to the root, its line count and imports."""

  path: str
  line_count: int
  imports: tuple[Import, ...]

  @property
  def unit(self):
    """'core' for kd/core/..., 'main' for kd/*.py, otherwise the top folder."""
    parts = self.path.split('/')
    if parts[0] != 'kd':
      return parts[0]
    return parts[1] if len(parts) > 2 else 'main'

  @property
  def module(self):
    path = self.path.removesuffix('.py').removesuffix('/__init__')
    return path.replace('/', '.')

  @property
  def is_test(self):
    return self.path.endswith(('_test.py', 'conftest.py'))


def read(root):
  """Returns every Source of the checkout at `root`, sorted by path."""
  found = []
  for folder, folders, files in os.walk(root):
    folders[:] = sorted(
      f for f in folders if not f.startswith(('.', 'bazel-', '__', 'venv'))
    )
    for name in sorted(files):
      if name.endswith('.py'):
        path = os.path.relpath(os.path.join(folder, name), root)
        found.append(_source(root, path.replace(os.sep, '/')))
  return found


def _source(root, path):
  with open(os.path.join(root, path), encoding='utf-8') as f:
    text = f.read()
  imports = tuple(_imports(root, ast.parse(text, path), lazy=False))
  return Source(path, len(text.splitlines()), imports)


def _imports(root, node, lazy):
  """Yields the imports in a subtree of the syntax tree."""
  if isinstance(node, ast.Import):
    for alias in node.names:
      module, by_folder = _folder(alias.name)
      yield Import(module, node.lineno, lazy, by_folder=by_folder)
  elif isinstance(node, ast.ImportFrom):
    for alias in node.names:
      yield _taken(
        root, '.' * node.level + (node.module or ''), alias, node, lazy
      )
  lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
  for child in ast.iter_child_nodes(node):
    yield from _imports(root, child, lazy)


def _folder(module):
  """Returns kd.configs.x as configs.x, and whether `module` lacked the kd."""
  top, _, inner = module.partition('.')
  if top == 'kd' and inner.partition('.')[0] in IN_KD:
    return inner, False
  return module, top in IN_KD


def _taken(root, parent, alias, node, lazy):
  inner, by_folder = _folder(f'{parent}.{alias.name}')
  if parent.split('.')[0] not in TOP_PACKAGES:
    return Import(inner, node.lineno, lazy)
  path = os.path.join(root, *inner.split('.'))
  if os.path.isdir(path) or os.path.exists(f'{path}.py'):
    return Import(inner, node.lineno, lazy, by_folder=by_folder)
  parent, by_folder = _folder(parent)
  return Import(parent, node.lineno, lazy, alias.name, by_folder)
