"""Checks that the BUILD files cover the Python files and their imports.

A BUILD file of this project is also valid Python, so `ast` parses it. Only
literal lists of labels and globs are supported.
"""

import ast
import dataclasses
import fnmatch
import os


@dataclasses.dataclass(frozen=True)
class Package:
  """Contents of one BUILD file.

  Attributes:
    folder: path of its folder relative to the root, '' for the root.
    calls: (rule, strings of each keyword argument) in order.
  """

  folder: str
  calls: tuple[tuple[str, dict[str, tuple[str, ...]]], ...]

  def strings(self, *arguments):
    """Returns the strings of the named arguments, over all calls."""
    return {s for _, kw in self.calls for a in arguments for s in kw.get(a, ())}

  def covers(self, path):
    """Returns whether a target contains the file `path` in this folder."""
    inner = os.path.relpath(path, self.folder or '.')
    for rule, arguments in self.calls:
      deep = 'True' in arguments.get('recursive', ()) or '/' not in inner
      named = [*arguments.get('srcs', ()), *arguments.get('*', ())]
      if rule == 'kd_tests' and deep and inner.endswith('_test.py'):
        return True
      if rule == 'kd_package' and deep:
        return True
      if any(fnmatch.fnmatch(inner, pattern) for pattern in named):
        return True
    return False

  def depends_on(self, package, is_test):
    deps = self.strings('deps', *(('test_deps', '*') if is_test else ()))
    return f'//{package}' in {label.split(':')[0] for label in deps}


def violations(root, files):
  """Returns the violations, one line each.

  Args:
    root: folder of the checkout.
    files: the `sources.Source` of each of its files.
  """
  packages = _packages(root)
  suite = packages[''].strings('tests') if '' in packages else set()
  found = [line for package in packages.values() for line in _twice(package)]
  for source in files:
    package = _owner(packages, source.path)
    if package is None or not package.covers(source.path):
      found.append(f'{source.path}: no BUILD target contains it')
      continue
    label = f'//{package.folder}:all_tests'
    if source.path.endswith('_test.py') and label not in suite:
      found.append(f'{source.path}: BUILD: //:tests lacks {label}')
    found += _missing_deps(root, packages, package, source)
  return list(dict.fromkeys(found))


def _twice(package):
  # A package's tests depend on both lists; Bazel rejects duplicate labels.
  for _, arguments in package.calls:
    deps = arguments.get('deps', ()) + arguments.get('test_deps', ())
    for label in sorted({x for x in deps if deps.count(x) > 1}):
      yield f'{package.folder}/BUILD: {label} is in both deps and test_deps'


def _missing_deps(root, packages, package, source):
  # kd_tests adds the oracles' scripts to the deps of these tests.
  is_oracle_test = source.path.endswith('_oracle_test.py')
  for imported in source.imports:
    path = _path(root, imported.module)
    owner = _owner(packages, path) if path else None
    # //kd contains only kd/__init__.py and is a dep of each package's library.
    if owner is None or owner == package or path == 'kd/__init__.py':
      continue
    if owner.folder == 'tests/oracles' and is_oracle_test:
      continue
    if not package.depends_on(owner.folder, source.is_test):
      argument = 'test_deps' if source.is_test else 'deps'
      yield (
        f'{source.path}:{imported.line}: imports {imported.module}; add '
        f'"//{owner.folder}" to {argument} in {package.folder}/BUILD'
      )


def _path(root, module):
  """Returns the first-party file of a module, None for other modules."""
  stem = module.replace('.', '/')
  for path in (f'{stem}.py', f'{stem}/__init__.py'):
    if os.path.exists(os.path.join(root, path)):
      return path
  return None


def _owner(packages, path):
  folder = path
  while folder:
    folder = os.path.dirname(folder)
    if folder in packages:
      return packages[folder]
  return None


def _packages(root):
  found = {}
  for folder, folders, files in os.walk(root):
    folders[:] = [f for f in folders if not f.startswith(('.', 'bazel-'))]
    if 'BUILD' in files:
      inner = os.path.relpath(folder, root)
      inner = '' if inner == '.' else inner
      with open(os.path.join(folder, 'BUILD'), encoding='utf-8') as f:
        found[inner] = Package(inner, tuple(_calls(ast.parse(f.read()))))
  return found


def _calls(tree):
  """Yields (rule, arguments); the positional arguments are under '*'."""
  for statement in tree.body:
    call = getattr(statement, 'value', None)
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
      arguments = {k.arg: _strings(k.value) for k in call.keywords}
      yield (
        call.func.id,
        {
          **arguments,
          '*': tuple(s for a in call.args for s in _strings(a)),
        },
      )


def _strings(node):
  constants = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
  return tuple(str(c) for c in constants)
