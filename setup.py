"""What the wheel holds; pyproject.toml has the rest.

One top-level package: configs/ and data/ become kd.configs and kd.data, the
names that they are imported by in a checkout too (kd/__init__.py).
"""

import setuptools
from setuptools.command import build_py

_INSIDE_KD = ('configs', 'data')
_OF_TESTS = ('_test', '_cases')


class _WithoutTests(build_py.build_py):
  """Copies the modules that the program imports."""

  def find_package_modules(self, package, package_dir):
    """Returns (package, module, file) of each module."""
    found = super().find_package_modules(package, package_dir)
    return [m for m in found if not m[1].endswith(_OF_TESTS)]


def _packages():
  """Returns all packages, by the names that they have in the wheel."""
  inside = setuptools.find_packages(
    include=[x for top in _INSIDE_KD for x in (top, f'{top}.*')]
  )
  kd = setuptools.find_packages(include=['kd', 'kd.*'])
  return [*kd, *(f'kd.{package}' for package in inside)]


setuptools.setup(
  packages=_packages(),
  package_dir={f'kd.{folder}': folder for folder in _INSIDE_KD},
  package_data={
    'kd': ['py.typed'],
    'kd.board': ['page/*'],
    'kd.data': ['fixtures/*/*', 'prompts/*'],
    'kd.data.gsm8k': ['*.tsv'],
  },
  cmdclass={'build_py': _WithoutTests},
)
