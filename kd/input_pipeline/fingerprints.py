"""What prepared rows were made from: the digest of code, prompts and files."""

import hashlib
import importlib
import importlib.util
import os
import types

from kd.core import errors
from kd.input_pipeline import arithmetic
from kd.input_pipeline import packing
from kd.input_pipeline import templates

_CODE = (arithmetic, packing, templates)
_SKIPPED = ('__pycache__', 'fixtures', 'BUILD')


def of_module(module: str) -> str:
  """Digest of all that the tasks of a module depend on; runs none of it.

  That is every file of the module's top package (declarations, prompts,
  checksums; not its tests or fixtures), the files that the package's module
  `sources` lists, if it has one, and the generating and packing code here.

  Args:
    module: 'data.mixtures', or another importable module's name.

  Returns:
    16 hex digits.

  Raises:
    ConfigError: there is no such module.
  """
  top = module.partition('.')[0]
  spec = _find(top, module)
  digest = hashlib.sha256()
  for path in [code.__file__ for code in _CODE]:
    _add(digest, os.path.basename(path), path)
  if not spec.submodule_search_locations:
    _add(digest, module, spec.origin)
    return digest.hexdigest()[:16]
  for folder in spec.submodule_search_locations:
    for path in _files(folder):
      _add(digest, os.path.relpath(path, folder), path)
  if importlib.util.find_spec(f'{top}.sources'):
    for path in importlib.import_module(f'{top}.sources').files():
      _add(digest, os.path.basename(path), path)
  return digest.hexdigest()[:16]


def import_module(module: str) -> types.ModuleType:
  """Imports the module that registers tasks.

  Raises:
    ConfigError: there is no such module.
  """
  _find(module, module)
  return importlib.import_module(module)


def _find(name: str, module: str) -> importlib.machinery.ModuleSpec:
  try:
    spec = importlib.util.find_spec(name)
  except (ModuleNotFoundError, ValueError):
    spec = None
  if spec is None:
    raise errors.ConfigError(
      'data.module',
      f'there is no Python module {module!r}',
      legal="a module that registers seqio tasks, such as 'data.mixtures'",
    )
  return spec


def _files(folder: str) -> list[str]:
  """The package's own files in a stable order."""
  found = []
  for base, folders, names in os.walk(folder):
    folders[:] = [name for name in folders if name not in _SKIPPED]
    found += [
      os.path.join(base, name)
      for name in names
      if name not in _SKIPPED and not name.endswith(('_test.py', '.pyc'))
    ]
  return sorted(found)


def _add(digest: 'hashlib._Hash', name: str, path: str) -> None:
  with open(path, 'rb') as f:
    data = f.read()
  digest.update(f'{len(name)}:{name}:{len(data)}:'.encode() + data)
