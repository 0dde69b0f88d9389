"""Tests that each rule accepts good code and names a violation."""

import os

import pytest

from tools import layers

_PACKAGE = 'kd_package(name = "x", deps = [%s], test_deps = [%s])'


def _write(root, files):
  for path, text in files.items():
    path = os.path.join(root, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as f:
      f.write(text)


@pytest.fixture
def project(tmp_path):
  """A small project without violations."""
  packages = {
    'kd/core': ('', ''),
    'kd/metrics': ('"//kd/core"', ''),
    'kd/models': ('"//kd/core"', ''),
    'kd/losses': ('"//kd/core"', '"//configs"'),
    'kd/input_pipeline': ('"//kd/core"', '"//data"'),
    'configs': ('"//kd/core", "//data"', ''),
    'data': ('"//kd/core", "//kd/input_pipeline"', ''),
    'tests': ('"//kd/core", "//kd/losses", "//kd/models"', ''),
    'tests/oracles': ('', ''),
  }
  suite = ', '.join(f'"//{package}:all_tests"' for package in packages)
  files = {
    'BUILD': f'test_suite(name = "tests", tests = [{suite}])',
    'kd/BUILD': 'kd_library(name = "kd", srcs = ["__init__.py", "main.py"], '
    'deps = ["//configs", "//data", "//kd/losses"])',
    'kd/__init__.py': '',
    'kd/main.py': 'import kd.configs\nfrom kd.losses import sums\n',
    'kd/core/errors.py': 'import os\n',
    'kd/metrics/writers.py': 'from clu import metric_writers\n',
    'kd/metrics/run.py': 'def f():\n  from kd.metrics import writers\n',
    'kd/models/block.py': 'from flax import linen as nn\n',
    'kd/losses/sums.py': 'import jax.numpy\nfrom kd.core import errors\n',
    'kd/losses/sums_test.py': 'from kd.configs import base\n',
    'kd/input_pipeline/rows.py': 'def f():\n  import seqio\n',
    'configs/base.py': 'import kd.data\n',
    'data/__init__.py': '',
    'data/tasks.py': 'import seqio\nfrom kd.input_pipeline import rows\n',
    'tests/parity_test.py': 'from kd.models import block\n',
    'kd/models/x_oracle_test.py': 'from tests.oracles import logits\n',
    'tests/oracles/logits.py': 'import torch\n',
  }
  for package, deps in packages.items():
    files[f'{package}/BUILD'] = _PACKAGE % deps
    files[f'{package}/__init__.py'] = ''
  _write(tmp_path, files)
  return tmp_path


def test_a_valid_project_passes(project):
  assert layers.violations(project) == []


@pytest.mark.parametrize(
  'path, text, expected',
  [
    # The order of the packages, in code and in tests.
    ('kd/core/x.py', 'from kd.losses import sums', 'core may import: kd.core'),
    ('kd/core/x_test.py', 'import kd.losses.sums', 'core may import: kd.core'),
    ('kd/losses/x.py', 'import kd.models.block', 'losses may import: kd.core'),
    ('kd/losses/x.py', 'import kd.configs.base', 'losses may import: kd.core'),
    ('kd/losses/x.py', 'def f():\n  import tests', 'losses may import: kd'),
    ('kd/main.py', 'import experiments.x', 'main may import: kd, configs'),
    ('configs/x.py', 'import kd.losses.sums', 'configs may import: configs'),
    ('data/x.py', 'import kd.losses.sums', 'data may import: data, kd.core'),
    ('kd/train/x.py', 'import benchmarks.x', 'train may import: kd.core'),
    ('benchmarks/peers/x.py', 'import kd.core.x', 'may import: benchmarks.p'),
    ('kd/novel/x.py', '', 'novel is in no layer'),
    # Libraries that only some packages may import.
    ('kd/losses/x.py', 'import flax.linen as nn', 'imports flax.linen; only'),
    ('kd/losses/x.py', 'def f():\n  import seqio', 'imports seqio; only'),
    ('kd/losses/x.py', 'import torch', 'imports torch: only scripts'),
    ('tests/x_test.py', 'def f():\n  import transformers', 'only scripts'),
    # Heavy imports at the top.
    ('kd/input_pipeline/x.py', 'import seqio', 'at the top'),
    ('kd/input_pipeline/x.py', 'if 1:\n  import tensorflow.io', 'at the top'),
    ('kd/metrics/x.py', 'from clu import metric_writers', 'at the top'),
    ('data/__init__.py', 'import tensorflow_datasets as tfds', 'at the top'),
    ('kd/metrics/x.py', 'from kd.metrics import writers', 'at the top'),
    ('configs/x.py', 'from kd.data import tasks', 'data.tasks at the top'),
    # Style.
    ('kd/core/x.py', 'from . import errors', 'relative import'),
    ('configs/x.py', 'from configs import base', 'its name is kd.configs.base'),
    ('kd/main.py', 'import data', 'its name is kd.data'),
    (
      'kd/core/x.py',
      'from kd.core.errors import Bad',
      'imports Bad from kd.core.err',
    ),
    ('kd/core/x.py', '#\n' * 401, '401 lines; at most 400'),
    ('kd/core/deep/x.py', '', 'kd/core/deep/__init__.py is missing'),
    # Bazel.
    ('kd/train/x.py', '', 'kd/train/x.py: no BUILD target contains it'),
    ('kd/x.py', '', 'kd/x.py: no BUILD target contains it'),
    ('tools/x_test.py', '', 'no BUILD target contains it'),
    (
      'kd/losses/x.py',
      'import kd.metrics.writers',
      'kd/losses/x.py:1: imports kd.metrics.writers; '
      'add "//kd/metrics" to deps in kd/losses/BUILD',
    ),
    (
      'kd/core/x_test.py',
      'import kd.configs.base',
      '"//configs" to test_deps in',
    ),
  ],
)
def test_violation_is_named(project, path, text, expected):
  _write(project, {path: text})
  found = layers.violations(project)
  assert any(line.startswith(path) and expected in line for line in found)


def test_test_deps_do_not_count_for_the_library(project):
  _write(project, {'kd/input_pipeline/x.py': 'def f():\n  import kd.data\n'})
  assert any('"//data" to deps' in line for line in layers.violations(project))


def test_package_missing_from_the_suite(project):
  text = (project / 'BUILD').read_text()
  (project / 'BUILD').write_text(text.replace('"//kd/losses:all_tests", ', ''))
  assert layers.violations(project) == [
    'kd/losses/sums_test.py: BUILD: //:tests lacks //kd/losses:all_tests'
  ]


def test_a_label_in_both_lists_of_a_package(project):
  deps = '"//kd/core"', '"//configs", "//kd/core"'
  (project / 'kd' / 'losses' / 'BUILD').write_text(_PACKAGE % deps)
  assert layers.violations(project) == [
    'kd/losses/BUILD: //kd/core is in both deps and test_deps'
  ]


def test_exit_code_and_last_line(project, capsys):
  assert layers.main([str(project)]) == 0
  _write(project, {'kd/losses/x.py': 'import torch'})
  assert layers.main([str(project)]) == 1
  assert capsys.readouterr().out.splitlines()[-1] == 'layers: 1 violations'
