"""Compiled programs are kept for the next process, by default and by choice."""

import os
import pathlib
import subprocess
import sys

_PROGRAM = """
import jax
from kd.core import compile_cache
compile_cache.enable()
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
print(float(jax.jit(lambda x: x * 3 + 1)(2.0)))
print(events.count('/jax/compilation_cache/cache_hits'))
"""


def _hits(home, **variables):
  """Runs the program in a process; returns how many compilations it saved."""
  kept = {k: v for k, v in os.environ.items() if 'COMPILATION_CACHE' not in k}
  result = subprocess.run(
    [sys.executable, '-c', _PROGRAM],
    env={**kept, 'HOME': str(home), 'JAX_PLATFORMS': 'cpu', **variables},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  value, hits = result.stdout.split()
  assert float(value) == 7
  return int(hits)


def _files(folder: pathlib.Path):
  return {f.name for f in folder.rglob('*') if f.is_file()}


def test_a_second_process_does_not_compile(tmp_path):
  assert _hits(tmp_path) == 0
  folder = tmp_path / '.cache/kd/compiled'
  written = _files(folder)
  assert written
  assert _hits(tmp_path) > 0
  assert {f for f in _files(folder) if not f.endswith('atime')} == {
    f for f in written if not f.endswith('atime')
  }


def test_the_environment_variable_disables_the_cache(tmp_path):
  assert _hits(tmp_path, JAX_COMPILATION_CACHE_DIR='') == 0
  assert not (tmp_path / '.cache').exists()
