"""Chains of runs for tests of faults, and checks of how they end."""

import json
import os
import subprocess
import sys

import numpy as np

from tests import alternating
from tests import command

STEPS = 6
SMALL = (
  *command.QUICK,
  '--config.evaluation.baseline=False',
  '--config.evaluation.sets.held_out.examples=4',
  '--config.evaluation.sets.held_out.answers=2',
  '--config.evaluation.max_new_tokens=4',
  '--config.data.read.wait_s=0.01',
)


class Driver:
  """Chains of runs in one process; see tests/fault_driver.py."""

  def __init__(self, folder):
    self.folder, self._chains = str(folder), {}
    # Arguments of all runs, except for the workdir and the rows' folder.
    self.arguments = (*SMALL[1:], alternating.teacher(self.folder))

  def add(self, name, faults, *more, inside='', rows='', config=SMALL[0]):
    """Adds a run to a chain.

    Args:
      name: name of the chain.
      faults: functions of fault_driver to call, with their arguments.
      *more: more arguments of kd.main.
      inside: folder in the chain's folder that contains the workdir.
      rows: chain whose prepared rows to use; '' for its own.
      config: flag of the config.
    """
    where = self.where(name)
    os.makedirs(where, exist_ok=True)
    chain = self._chains.setdefault(name, [])
    chain.append(
      {
        'arguments': [
          config,
          *self.arguments,
          f'--config.data.folder={self.folder}/{rows or name}/rows',
          f'--workdir={self.workdir(name, inside)}',
          *more,
        ],
        'log': f'{where}/log{len(chain)}',
        'faults': {'alternate_layers': {}, **faults},
      }
    )

  def go(self):
    """Runs all added chains and returns their exit codes by name."""
    done = subprocess.run(
      [sys.executable, '-m', 'tests.fault_driver'],
      input=json.dumps(list(self._chains.values())),
      env=command.environment(),
      text=True,
      capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    names, self._chains = list(self._chains), {}
    return dict(zip(names, json.loads(done.stdout), strict=True))

  def where(self, name):
    """Returns a chain's folder."""
    return os.path.join(self.folder, name)

  def workdir(self, name, inside=''):
    return os.path.join(self.where(name), inside, 'run')

  def log(self, name, number):
    with open(f'{self.folder}/{name}/log{number}', encoding='utf-8') as f:
      return f.read()

  def error(self, name):
    """Returns the error of a chain's first run, without its likely causes."""
    lines = self.log(name, 0).splitlines()
    return [line for line in lines if line.startswith('kd: error: ')][-1]


def end_state(workdir):
  """Returns all results of a run except its timings."""
  evaluations = {}
  for name in sorted(os.listdir(f'{workdir}/evaluations')):
    with open(f'{workdir}/evaluations/{name}', encoding='utf-8') as f:
      evaluations[name] = f.read()
  last = f'{workdir}/checkpoints/{STEPS}'
  with open(f'{last}/metrics/metrics', encoding='utf-8') as f:
    figure = f.read()
  return command.saved(workdir, STEPS), {
    'metrics': command.metrics(workdir),
    'evaluations': evaluations,
    'figure': figure,
    'files': sorted(os.listdir(workdir)),
  }


def assert_same(workdir, straight):
  """Asserts that every bit equals a result of end_state."""
  arrays, rest = end_state(workdir)
  assert arrays.keys() == straight[0].keys() and len(arrays) > 50
  for key, value in straight[0].items():
    np.testing.assert_array_equal(arrays[key], value, err_msg=key)
  for name, expected in straight[1].items():
    assert rest[name] == expected, name
