"""A process that restarts itself."""

import os
import subprocess
import sys

from kd.core import host_memory

_SCRIPT = """
import os, sys
from kd.core import host_memory
host_memory.use_large_pages()
host_memory.trim()
print(os.environ.get('GLIBC_TUNABLES', 'none'), os.getpid(), *sys.argv[1:])
"""


def _run(**variables):
  root = host_memory.__file__.rsplit(os.sep, 3)[0]
  kept = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  process = subprocess.Popen(
    [sys.executable, '-c', _SCRIPT, '--a=b c', '-x'],
    env=kept | {'PYTHONPATH': root} | variables,
    stdout=subprocess.PIPE,
    text=True,
  )
  out, _ = process.communicate()
  assert process.returncode == 0
  tunables, pid, *arguments = out.split(' ')
  assert (int(pid), arguments) == (process.pid, ['--a=b', 'c', '-x\n'])
  return tunables


def test_the_process_restarts_itself_once_with_the_same_arguments():
  assert _run() == 'glibc.malloc.hugetlb=1'


def test_settings_of_the_user_are_kept():
  name = 'glibc.malloc.hugetlb'
  assert _run(GLIBC_TUNABLES=f'{name}=0') == f'{name}=0'
  other = 'glibc.malloc.arena_max=3'
  assert _run(GLIBC_TUNABLES=other) == f'{other}:{name}=1'


def test_the_peak_equals_the_systems():
  with open('/proc/self/status', encoding='ascii') as f:
    (line,) = [x for x in f if x.startswith('VmHWM:')]
  peak = int(line.split()[1]) * 1024
  # The peak may be the parent's, from before the fork.
  assert 0.9 * peak < host_memory.peak_bytes() < host_memory.total_bytes()


def test_free_memory_respects_a_containers_limit(tmp_path, monkeypatch):
  limit, used = tmp_path / 'limit', tmp_path / 'used'
  there = host_memory.free_bytes()
  assert 0 < there <= host_memory.total_bytes()
  groups = (('/none', '/none'), (str(limit), str(used)))
  monkeypatch.setattr(host_memory, '_GROUPS', groups)
  for text, free in (('9000\n', 8000), ('max\n', None)):
    limit.write_text(text)
    used.write_text('1000\n')
    seen = host_memory.free_bytes()
    assert seen == free if free else seen > 9000
  limit.write_text('9000\n')
  assert host_memory.total_bytes() == 9000
