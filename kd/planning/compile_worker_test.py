"""Tests the compile worker without running the compiler."""

import subprocess
import sys

_WAITING = """
import time
from kd.planning import compile_worker
compile_worker.end_with_input()
print('ready', flush=True)
time.sleep(60)
"""


def test_the_worker_ends_when_its_parent_ends():
  process = subprocess.Popen(
    [sys.executable, '-c', _WAITING],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  try:
    assert process.stdout.readline() == b'ready\n'
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(30) == 1
  finally:
    process.kill()
