"""Tests the wheel, installed outside the checkout, and its command `kd`."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

from packaging import requirements
import pytest

import kd
from kd import modes
from tests import command

_BUILD = (
  'import sys; from setuptools import build_meta; '
  'print(build_meta.build_wheel(sys.argv[1]))'
)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Builds the wheel from a copy, without a network."""
  folder = tmp_path_factory.mktemp('wheel')
  for name in ('kd', 'configs', 'data'):
    shutil.copytree(
      name, folder / name, ignore=shutil.ignore_patterns('__pycache__')
    )
  for name in ('pyproject.toml', 'setup.py', 'README.md'):
    shutil.copy(name, folder / name)
  build = subprocess.run(
    [sys.executable, '-c', _BUILD, str(folder)],
    cwd=folder,
    capture_output=True,
    text=True,
  )
  assert build.returncode == 0, build.stderr
  (path,) = folder.glob('*.whl')
  return path


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
  """Returns a function that runs the installed command in a folder."""
  site = tmp_path_factory.mktemp('site')
  pip = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index']
  subprocess.run([*pip, f'--target={site}', str(wheel)], check=True)

  def run(folder, *arguments):
    done = subprocess.run(
      [site / 'bin' / 'kd', *arguments],
      cwd=folder,
      env={**command.environment(), 'PYTHONPATH': str(site)},
      capture_output=True,
      text=True,
      timeout=600,
    )
    return done.returncode, done.stdout, done.stderr

  return run


def test_the_wheel_has_one_package_and_no_tests(wheel):
  names = set(zipfile.ZipFile(wheel).namelist())
  info = f'kd-{kd.__version__}.dist-info'
  assert {n.split('/')[0] for n in names} == {'kd', info}
  assert not [n for n in names if n.endswith(('_test.py', '_cases.py'))]
  files = [
    *pathlib.Path('configs').glob('*.py'),
    *pathlib.Path('data').rglob('*'),
  ]
  expected = {
    f'kd/{path}'
    for path in files
    if path.is_file() and not re.search('BUILD|_test|__pycache__', str(path))
  }
  assert len(expected) > 20 and expected <= names
  assert 'kd/py.typed' in names


def test_the_wheels_dependencies_include_the_tested_versions():
  project = tomllib.loads(pathlib.Path('pyproject.toml').read_text())['project']
  lines = project['dependencies'] + project['optional-dependencies']['test']
  ranges = {r.name: r.specifier for r in map(requirements.Requirement, lines)}
  tested = dict(
    (line.split('==') + [''])[:2]
    for line in pathlib.Path('requirements.in').read_text().split()
  )
  assert len(ranges) == len(lines)
  assert ranges.keys() == tested.keys()
  for name, version in tested.items():
    assert not version or version in ranges[name] or not ranges[name], name


def test_training_in_an_empty_folder(installed, tmp_path):
  code, out, err = installed(
    tmp_path,
    *('train', '--config=quickstart', '--config.evaluation.baseline=False'),
    *(a for a in command.QUICK[1:] if '.evaluation.' not in a),
    *('--config.evaluation.every=0', '--config.evaluation.sets={}'),
  )
  assert code == 0, err
  assert [p.name for p in tmp_path.iterdir()] == ['kd-quickstart']
  workdir = tmp_path / 'kd-quickstart'
  assert 'workdir: kd-quickstart' in out
  run = json.loads((workdir / 'run.json').read_text())
  assert run['ends']['student']['step'] == 6

  # A later mode needs neither the config nor the checkout.
  code, out, err = installed(tmp_path, 'export', '--workdir=kd-quickstart')
  assert code == 0, err
  claims = json.loads((workdir / 'export/hf/provenance.json').read_text())
  assert claims['code']['version'] == kd.__version__
  assert claims['code']['commit'] is None


def test_the_command_accepts_modes_and_configs_as_words(installed, tmp_path):
  assert installed(tmp_path, '--version')[:2] == (0, f'kd {kd.__version__}\n')
  code, out, _ = installed(tmp_path, '--help')
  assert code == 0 and 'gemma3_27b_4b' in out
  for name, mode in modes.all_modes().items():
    assert re.search(rf'^  {name}\b.*\s+{re.escape(mode.help)}$', out, re.M)
  cases = {
    ('trian', '--config=quickstart'): ("mode 'trian'", "mean 'train'?"),
    ('train', '--config=quikstart'): ("no config 'quikstart'", "'quickstart'?"),
    ('train', '--config=quickstart', '--mode=eval'): ('train and --mode',),
  }
  for arguments, expected in cases.items():
    code, _, err = installed(tmp_path, *arguments)
    assert code == 2 and err.count('\n') == 1, err
    assert all(text in err for text in expected), err
  assert not os.listdir(tmp_path)
