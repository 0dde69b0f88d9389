"""Tests that the image's recipe names existing files and its entry works."""

import json
import os
import re
import subprocess
import sys

from kd.core import paths

_ROOT = paths.project_folder()
_RECIPE = 'launch/manifests/Dockerfile'


def _steps():
  """Returns (instruction, argument) of each step of the recipe, in order."""
  with open(os.path.join(_ROOT, _RECIPE), encoding='utf-8') as f:
    text = re.sub(r'^#.*\n', '', f.read(), flags=re.MULTILINE)
  lines = text.replace('\\\n', ' ').splitlines()
  return [tuple(line.split(None, 1)) for line in lines if line]


def test_the_image_is_pinned_and_does_not_run_as_root():
  steps = _steps()
  for _, argument in (s for s in steps if s[0] == 'COPY'):
    for name in argument.split()[:-1]:
      assert os.path.exists(os.path.join(_ROOT, name)), name
  installs = [a for i, a in steps if i == 'RUN' and 'pip' in a]
  assert all('--require-hashes' in a for a in installs)
  users = [argument for instruction, argument in steps if instruction == 'USER']
  assert users[-1] not in ('root', '0')
  # The steps after USER could write only to /home/kd.
  assert [i for i, _ in steps][-2:] == ['USER', 'ENTRYPOINT']


def test_the_entry_point_accepts_modes():
  (entry,) = (json.loads(a) for i, a in _steps() if i == 'ENTRYPOINT')
  done = subprocess.run(
    [*entry, 'trian', '--config=quickstart'],
    cwd=_ROOT,
    env={**os.environ, 'KD_PYTHON': sys.executable},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  assert "unknown mode 'trian'" in done.stderr and 'train' in done.stderr


def test_the_devcontainer_uses_the_same_image():
  with open(
    os.path.join(_ROOT, '.devcontainer', 'devcontainer.json'), encoding='utf-8'
  ) as f:
    container = json.load(f)
  recipe = os.path.join('.devcontainer', container['build']['dockerfile'])
  assert os.path.normpath(recipe) == _RECIPE
  created = [a for i, a in _steps() if i == 'RUN' and 'useradd' in a]
  assert container['remoteUser'] in created[0].split()
