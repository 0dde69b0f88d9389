"""Tests that a shard of a test target runs only its own files."""

import os
import subprocess
import sys

import pytest

_MAIN = os.path.abspath(os.path.join('tools', 'pytest_main.py'))


@pytest.mark.parametrize(('shard', 'code'), [(0, 1), (1, 0)])
def test_shards_without_files_run_no_test(tmp_path, shard, code):
  (tmp_path / 'pyproject.toml').write_text('')
  (tmp_path / 'a_test.py').write_text('def test_fails():\n  assert False\n')
  (tmp_path / 'test_a.py').write_text('def test_fails():\n  assert False\n')
  done = subprocess.run(
    [sys.executable, _MAIN, 'a_test.py'],
    cwd=tmp_path,
    env={
      'PATH': os.environ['PATH'],
      'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1',
      'TEST_SHARD_INDEX': str(shard),
      'TEST_SHARD_STATUS_FILE': str(tmp_path / 'status'),
      'TEST_TMPDIR': str(tmp_path / 'tmp'),
      'TEST_TOTAL_SHARDS': '2',
      'XML_OUTPUT_FILE': str(tmp_path / 'results.xml'),
    },
    check=False,
  )
  assert done.returncode == code
