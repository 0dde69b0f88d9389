"""Faults at many points: each run ends as the undisturbed one, bit for bit."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests import command

STEPS = 6
_SMALL = (
  *command.QUICK,
  '--config.evaluation.baseline=False',
  '--config.evaluation.sets.held_out.examples=4',
  '--config.evaluation.sets.held_out.answers=2',
  '--config.evaluation.max_new_tokens=4',
  '--config.data.read.wait_s=0.01',
)
_GENERATE = 'kd.sampling.decode:Decoder.generate'
_READ = 'kd.input_pipeline.packing:from_bytes'

# Of the file events of a run, by thousandths, where it is killed or told to
# end: about a sixth is preparation and start, most of the rest are saves.
_KILLED = (15, 45, 80, 120, 230, 320, 370, 390, 560, 700, 750, 960, 995)
_TOLD = (25, 60, 110, 160, 200, 290, 450, 640, 740, 950)


class Driver:
  """Chains of runs in one process; see tests/fault_driver.py."""

  def __init__(self, folder):
    self.folder, self._chains = str(folder), {}

  def run(self, name, faults, *more):
    """A run of a chain's workdir; `more` arguments."""
    where = os.path.join(self.folder, name)
    os.makedirs(where, exist_ok=True)
    chain = self._chains.setdefault(name, [])
    return {
      'arguments': [
        *_SMALL,
        f'--config.data.folder={where}/rows',
        f'--workdir={where}/run',
        *more,
      ],
      'log': f'{where}/log{len(chain)}',
      'faults': faults,
    }

  def add(self, name, faults, *more):
    """Adds a run to a chain."""
    run = self.run(name, faults, *more)
    self._chains[name].append(run)

  def go(self):
    """Runs what was added; the codes by chain."""
    env = {
      **os.environ,
      'PYTHONPATH': os.getcwd(),
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': f'{self.folder}-programs',
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }
    env.pop('XLA_FLAGS', None)
    done = subprocess.run(
      [sys.executable, '-m', 'tests.fault_driver'],
      input=json.dumps(list(self._chains.values())),
      env=env,
      text=True,
      capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    names, self._chains = list(self._chains), {}
    return dict(zip(names, json.loads(done.stdout), strict=True))

  def workdir(self, name):
    return f'{self.folder}/{name}/run'

  def log(self, name, number):
    with open(f'{self.folder}/{name}/log{number}', encoding='utf-8') as f:
      return f.read()


def _end_state(workdir):
  """All that a run leaves, but its timings."""
  steps = sorted(n for n in os.listdir(f'{workdir}/checkpoints'))
  evaluations = {}
  for name in sorted(os.listdir(f'{workdir}/evaluations')):
    with open(f'{workdir}/evaluations/{name}', encoding='utf-8') as f:
      evaluations[name] = f.read()
  figures = {}
  for step in steps:
    with open(f'{workdir}/checkpoints/{step}/metrics/metrics') as f:
      figures[step] = f.read()
  return command.saved(workdir, STEPS), {
    'metrics': command.metrics(workdir),
    'evaluations': evaluations,
    'checkpoints': figures,
    'files': sorted(os.listdir(workdir)),
  }


def _assert_same(workdir, straight):
  arrays, rest = _end_state(workdir)
  assert arrays.keys() == straight[0].keys() and len(arrays) > 50
  for key, value in straight[0].items():
    np.testing.assert_array_equal(arrays[key], value, err_msg=key)
  assert rest == straight[1]


@pytest.fixture(scope='module')
def driver(tmp_path_factory):
  return Driver(tmp_path_factory.mktemp('faults'))


@pytest.fixture(scope='module')
def straight(driver):
  """A run that nothing disturbs: its end, and how many file events it had."""
  where = f'{driver.folder}/straight'
  file = f'{driver.folder}/events'
  driver.add('straight', {'count_events': {'folder': where, 'file': file}})
  assert driver.go() == {'straight': [0]}, driver.log('straight', 0)
  with open(file, encoding='utf-8') as f:
    events = json.load(f)
  return _end_state(driver.workdir('straight')), len(events)


def _signals(driver, events):
  """Chains that are killed or told to end, and then started again."""
  points = {}
  for name, thousandths in (('SIGKILL', _KILLED), ('SIGTERM', _TOLD)):
    for n in thousandths:
      number = 1 + events * n // 1000
      where = os.path.join(driver.folder, f'{name}-event-{n}')
      points[f'{name}-event-{n}'] = {
        'signal_at_event': {'folder': where, 'number': number, 'name': name}
      }
  for number in (3, 25):
    points[f'SIGTERM-compile-{number}'] = {
      'signal_at_compile': {'number': number, 'name': 'SIGTERM'}
    }
  calls = {
    'step': ('kd.train.window:Window.add', 1),
    'later-step': ('kd.train.window:Window.add', 5),
    'evaluation': (_GENERATE, 3),
    'last-evaluation': (_GENERATE, 4),
    'report': ('kd.train.report:write', 1),
  }
  for what, (where, number) in calls.items():
    points[f'SIGTERM-{what}'] = {
      'signal_at_call': {'where': where, 'number': number, 'name': 'SIGTERM'}
    }
  for name, faults in points.items():
    driver.add(name, faults)
    driver.add(name, {})
  return list(points)
