"""Ctrl-C once saves, twice ends at once: a real process with real signals."""

import os
import signal
import subprocess
import sys

import pytest

_CODE = """
import time
from kd.train import preemption
preemption.STOP_REQUESTS.install()
with preemption.STOP_REQUESTS.unsaved():
  print('ready', flush=True)
  time.sleep(60)
"""


@pytest.fixture
def process():
  with subprocess.Popen(
    [sys.executable, '-c', _CODE],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == 'ready\n'
    yield process
    process.kill()


def test_the_second_interrupt_ends_without_saving(process):
  process.send_signal(signal.SIGINT)
  line = process.stderr.readline()
  assert line == 'kd: saving; press Ctrl-C again to end at once\n'
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  assert process.wait(timeout=30) == 130
  assert 'ended at once' in process.stderr.read()
