"""Runs pytest on the files in argv with the settings that Bazel requests."""

import faulthandler
import os
import sys

# Python resolves the symlink and puts this file's real folder first on the
# path, but modules in tools/ must not be importable by their bare names.
_HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [p for p in sys.path if p != _HERE]

import pytest  # noqa: E402 - must follow the line above.

_ORACLES = os.path.join('..', 'oracles', 'python')


def _watch_for_time_out():
  """Prints where a test hangs before Bazel kills it and loses the output."""
  limit = int(os.environ['TEST_TIMEOUT'])
  seconds = max(1, limit - max(1, limit // 20))
  stderr = os.fdopen(os.dup(2), 'w')
  faulthandler.dump_traceback_later(seconds, file=stderr)


def _shard(files):
  """Returns the test files of this shard."""
  if 'TEST_TOTAL_SHARDS' not in os.environ:
    return files
  # Without this file Bazel assumes that each shard runs all tests.
  with open(os.environ['TEST_SHARD_STATUS_FILE'], 'w'):
    pass
  first = int(os.environ['TEST_SHARD_INDEX'])
  return files[first :: int(os.environ['TEST_TOTAL_SHARDS'])]


def main(argv):
  if 'TEST_TIMEOUT' in os.environ:
    _watch_for_time_out()
  # The real home is read-only in Bazel's sandbox.
  os.environ['HOME'] = os.environ['TEST_TMPDIR']
  if os.path.exists(_ORACLES):
    with open(_ORACLES, encoding='utf-8') as f:
      os.environ['KD_ORACLES_PYTHON'] = f.read().strip()
  args = ['-c', 'pyproject.toml', '--rootdir=.', '-p', 'no:cacheprovider']
  args += ['-q', '--color=no', '-rfEs']
  args += [f'--junitxml={os.environ["XML_OUTPUT_FILE"]}']
  args += [f'--basetemp={os.environ["TEST_TMPDIR"]}/pytest']
  only = os.environ.get('TESTBRIDGE_TEST_ONLY')  # From --test_filter.
  if only:
    args += ['-k', only]
  files = _shard(argv)
  if not files:  # Without files pytest would run all tests in this folder.
    return 0
  code = pytest.main(args + files)
  if only and code == pytest.ExitCode.NO_TESTS_COLLECTED:
    return 0
  return int(code)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
