"""Only one run may use a workdir, and locks of dead runs are ignored."""

import os
import subprocess
import sys

import pytest

from kd.core import errors
from kd.run import lock

_HOLDER = """
import sys, time
from kd.run import lock
with lock.hold(sys.argv[1], '--workdir'):
  print('held', flush=True)
  time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
  """Starts another process that holds the workdir."""
  process = subprocess.Popen(
    [sys.executable, '-c', _HOLDER, str(tmp_path)],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.wait()


def test_a_second_process_is_refused_until_the_first_has_ended(
  holder, tmp_path
):
  for _ in range(2):
    with (
      pytest.raises(errors.ConfigError) as e,
      lock.hold(str(tmp_path), '--workdir'),
    ):
      pass
    assert f'process {holder.pid} on {os.uname().nodename}' in str(e.value)
  holder.kill()
  holder.wait()
  assert os.path.exists(tmp_path / lock.FILE)
  with lock.hold(str(tmp_path), '--workdir') as warning:
    assert warning == ''
  assert not os.path.exists(tmp_path / lock.FILE)


def test_new_folders_are_removed_unless_used(tmp_path):
  made = tmp_path / 'run'
  with pytest.raises(KeyError), lock.hold(str(made), '--workdir'):
    assert os.listdir(made) == [lock.FILE]
    raise KeyError
  assert not made.exists()
  with lock.hold(str(made), '--workdir'):
    (made / 'config.json').touch()
  assert os.listdir(made) == ['config.json']


def test_folders_without_write_access_are_refused():
  # A file system where not even root can create folders.
  with (
    pytest.raises(errors.ConfigError, match='^--workdir: .*cannot be written'),
    lock.hold('/proc/kd', '--workdir'),
  ):
    pass
