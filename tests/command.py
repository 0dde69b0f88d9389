"""Runs the program as a user does: in another process, with flags and files."""

import atexit
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests import warm

QUICK = (
  '--config=configs/quickstart.py',
  '--config.steps=6',
  '--config.optimizer.lr.warmup_steps=2',
  '--config.data.mixture=arithmetic_few',
  '--config.data.batch_size=4',
  '--config.data.length=64',
  '--config.evaluation.every=3',
  '--config.evaluation.batch_size=8',
  '--config.evaluation.max_new_tokens=8',
  '--config.evaluation.sets.held_out.examples=8',
  '--config.evaluation.sets.held_out.answers=4',
  '--config.checkpoint.every=2',
  '--config.log.every=3',
  '--config.log.tensorboard=False',
)


_DEVICES = '--xla_force_host_platform_device_count'
# Read at import, because a test may change the current folder.
_PROJECT = os.getcwd()


def environment() -> dict[str, str]:
  """Returns the environment variables of a tested program."""
  env = {
    **os.environ,
    'PYTHONPATH': _PROJECT,
    'JAX_PLATFORMS': 'cpu',
    # All runs share compiled programs.
    'JAX_COMPILATION_CACHE_DIR': _compiled(),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }
  # The program must not inherit the device count of the test's process.
  flags = env.get('XLA_FLAGS', '').split()
  env['XLA_FLAGS'] = ' '.join(f for f in flags if not f.startswith(_DEVICES))
  return env


def with_devices(count: int) -> dict[str, str]:
  """Returns the variable that sets a tested program's number of devices."""
  flags = environment()['XLA_FLAGS']
  return {'XLA_FLAGS': f'{flags} {_DEVICES}={count}'}


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
  """Caches compiled programs of this process within the block.

  The cache is shared with the programs started with `environment`.
  """
  jax.config.update('jax_compilation_cache_dir', _compiled())
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  try:
    yield
  finally:
    jax.config.update('jax_compilation_cache_dir', None)


@functools.cache
def _compiled():
  if 'KD_TESTS_COMPILED' in os.environ:
    # Shared by all test processes of .ci/run.
    return os.environ['KD_TESTS_COMPILED']
  folder = tempfile.mkdtemp(prefix='kd-compiled-')
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder


_NO_FAULTS = types.MappingProxyType({})
# Value of `faults` for runs that do not need the usual order of layers.
ALTERNATING = {'alternate_layers': {}}


class _Forks:
  """Starts the program in forks of one process; see warm."""

  def __init__(self):
    self._folder, self._env = tempfile.mkdtemp(prefix='kd-runs-'), environment()
    self._warm, self._started = warm.Warm(self._env, _PROJECT), 0
    atexit.register(self._close)

  def start(self, arguments, faults):
    self._started += 1
    return self._warm.start(
      arguments,
      faults,
      changed(self._env, environment()),
      f'{self._folder}/{self._started}',
    )

  def _close(self):
    self._warm.close()
    shutil.rmtree(self._folder, ignore_errors=True)


def changed(
  old: Mapping[str, str], new: Mapping[str, str]
) -> dict[str, str | None]:
  """Returns the new values of changed variables; None if removed."""
  return {
    name: new.get(name)
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name)
  }


_forks = functools.cache(_Forks)


def start(
  arguments: Sequence[str], faults: Mapping[str, Any] = _NO_FAULTS
) -> warm.Process:
  """Starts the program in a fork of a process that has imported it.

  Args:
    arguments: command-line arguments.
    faults: functions of fault_driver to call, with their arguments.
  """
  return _forks().start(arguments, faults)


def finish(process: warm.Process) -> tuple[int, str, str]:
  """Waits for the end; returns the exit code, stdout and stderr."""
  code = process.wait(1200)
  return code, process.text('out'), process.text('err')


def run(
  arguments: Sequence[str], faults: Mapping[str, Any] = _NO_FAULTS
) -> tuple[int, str, str]:
  """Runs the program to its end, with the arguments of `start`."""
  return finish(start(arguments, faults))


def run_python(
  arguments: Sequence[str], cwd: str | None = None
) -> tuple[int, str, str]:
  """Runs `python -m kd`; returns the exit code, stdout and stderr."""
  done = subprocess.run(
    [sys.executable, '-m', 'kd', *arguments],
    cwd=cwd,
    env=environment(),
    text=True,
    capture_output=True,
    timeout=600,
  )
  return done.returncode, done.stdout, done.stderr


def metrics(workdir: str) -> list[dict]:
  """Returns the lines of metrics.jsonl without machine-dependent fields."""
  path = os.path.join(workdir, 'metrics.jsonl')
  if not os.path.exists(path):
    return []
  with open(path, encoding='utf-8') as f:
    lines = [json.loads(x) for x in f if x.endswith('\n')]
  return [
    {k: v for k, v in line.items() if not k.startswith('perf/')}
    for line in lines
  ]


def saved(workdir: str, step: int) -> dict[str, np.ndarray]:
  """Returns a checkpoint's arrays by item and path, read only with Orbax."""
  found = {}
  for item in ('params', 'optimizer', 'ema'):
    path = os.path.join(workdir, 'checkpoints', str(step), item)
    if not os.path.isdir(path):
      continue
    tree = ocp.StandardCheckpointer().restore(path)
    leaves = ocp.tree.to_flat_dict(tree, sep='/')
    found.update({f'{item}/{k}': np.asarray(v) for k, v in leaves.items()})
  return found


def assert_ended_alike(workdir: str, expected: str, step: int) -> None:
  """Asserts that two runs ended with the same bits and metrics."""
  got, wanted = saved(workdir, step), saved(expected, step)
  assert got.keys() == wanted.keys() and len(got) > 50
  for key, value in wanted.items():
    np.testing.assert_array_equal(got[key], value, err_msg=key)
  assert metrics(workdir) == metrics(expected)


def wait(process: warm.Process, workdir: str) -> None:
  """Waits until step 3 is done and the checkpoint of step 2 is complete."""
  for _ in range(30_000):
    lines = metrics(workdir)
    trained = any(x['step'] >= 3 and x['phase'] == 'train' for x in lines)
    if trained and os.path.isdir(os.path.join(workdir, 'checkpoints', '2')):
      return
    assert process.poll() is None, finish(process)
    time.sleep(0.02)
  raise AssertionError('step 3 never came')
