"""Times the start of training with a cold and a warm compilation cache.

Runs the quickstart for one step in separate processes, first with an empty
folder of compiled programs and then with the programs of the first start.
Prints one line of JSON: seconds from the command until the first step is in
metrics.jsonl, and the number of compiled programs.
"""

from collections.abc import Mapping
import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax

from benchmarks import results
from kd.board import run_files
from kd.configs import quickstart
from kd.planning import planned_run
from kd.planning import suggestions
from kd.run import resolve
from kd.train import training_rows

_LOOK_S = 0.02
_FIELDS = {
  'steps': 1,
  'optimizer.lr.warmup_steps': 0,
  'log.every': 1,
  'log.tensorboard': False,
  'evaluation.every': 0,
  'evaluation.baseline': False,
  'evaluation.sets': {},
}


def start(folder: str, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
  """Starts a run; returns its time to the first step and compiled programs.

  Args:
    folder: folder of the compiled programs and the workdir.
    name: name of the workdir.
    fields: config fields that differ from the quickstart's.

  Raises:
    RuntimeError: the run failed.
  """
  workdir = os.path.join(folder, name)
  env = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join(sys.path),  # As set by Bazel.
    'JAX_COMPILATION_CACHE_DIR': os.path.join(folder, 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }
  command = [sys.executable, '-m', 'kd', '--config=quickstart']
  command += [*suggestions.flags(fields).split(), f'--workdir={workdir}']
  began = time.monotonic()
  process = subprocess.Popen(command, env=env, stdout=sys.stderr)
  seconds, files = None, run_files.RunFiles(workdir)
  while process.poll() is None:
    time.sleep(_LOOK_S)
    if seconds is None and files.refresh() and files.step:
      seconds = time.monotonic() - began
  if process.returncode or seconds is None:
    raise RuntimeError(f'{" ".join(command)}: code {process.returncode}')
  kept = ('compile_s', 'programs_compiled', 'programs_cached')
  return {
    'first_step_s': seconds,
    **{key: files.get(f'perf/{key}').values[0] for key in kept},
  }


def run(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Measures and returns the result.

  Args:
    fields: config fields that differ from the quickstart's.
  """
  with tempfile.TemporaryDirectory() as folder:
    fields = {**fields, 'data.folder': os.path.join(folder, 'rows')}
    config = quickstart.get_config()
    config.evaluation.sets = {}
    rest = {k: v for k, v in fields.items() if k != 'evaluation.sets'}
    config = planned_run.changed(config, rest)
    # The rows are prepared here, so that neither start includes it.
    with contextlib.redirect_stdout(sys.stderr):
      resolved = resolve.resolve(config, jax.devices())
      training_rows.prepare(resolved, functools.partial(print, flush=True))
    cold = start(folder, 'cold', fields)
    warm = start(folder, 'warm', fields)
  return {
    'benchmark': 'start_cpu',
    'cold': cold,
    'warm': warm,
    'warm_share': warm['first_step_s'] / cold['first_step_s'],
  }


def main():
  """Prints the result."""
  results.show(run(_FIELDS))


if __name__ == '__main__':
  main()
