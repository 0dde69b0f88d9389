"""Tests that runs with faults end bit for bit like the undisturbed run."""

import functools
import json
import os
import shutil
import subprocess

import numpy as np
import pytest

from kd.run import lock
from tests import fault_chains

_GENERATE = 'kd.sampling.engine:Engine.generate'
_ABSORB = 'kd.train.train_metrics:MetricsWindow.add'
_READ = 'kd.input_pipeline.packing:from_bytes'

# Points where a run gets SIGKILL or SIGTERM, in thousandths of its file events:
# the first tenth is preparation, most of the rest are saves. The other chains
# prepare no rows, so their events start after the preparation.
_PREPARING = 100
_KILLED = (20, 120, 720)
_TOLD = (450,)
# Only one checkpoint is kept: if its save fails, there is no other.
_KEEP = '--config.checkpoint.keep=1'


@pytest.fixture(scope='module')
def driver(tmp_path_factory):
  return fault_chains.Driver(tmp_path_factory.mktemp('faults'))


@pytest.fixture(scope='module')
def straight(driver):
  """The end state and the file events of an undisturbed run."""
  where = driver.where('straight')
  file = f'{driver.folder}/events'
  count = {'count_events': {'folder': where, 'file': file}}
  # Same flag as the runs that use its events; other runs have more events.
  driver.add('straight', count, _KEEP)
  assert driver.go() == {'straight': [0]}, driver.log('straight', 0)
  with open(file, encoding='utf-8') as f:
    events = json.load(f)
  return fault_chains.end_state(driver.workdir('straight')), events


def _signal_points():
  """Returns the signal of each chain's first run, and the exit code.

  A number is in thousandths of the undisturbed run's file events.
  """
  points = {}
  for name, code, thousandths in (
    ('SIGKILL', -9, _KILLED),
    ('SIGTERM', 42, _TOLD),
  ):
    for n in thousandths:
      points[f'{name}-event-{n}'] = 'signal_at_event', n, name, code
  points['SIGTERM-compile'] = 'signal_at_compile', 20, 'SIGTERM', 42
  for what, where, n in (
    # The first is at step 0: the teacher's evaluation is taken from `straight`.
    ('last-evaluation', _GENERATE, 3),
    ('report', 'kd.train.report:write', 1),
  ):
    points[f'SIGTERM-{what}'] = 'signal_at_call', (where, n), 'SIGTERM', 42
  return points


_POINTS = _signal_points()


def _signal(driver, name, events):
  """Returns the faults that send a chain's signal."""
  kind, at, signal_name, _ = _POINTS[name]
  if kind == 'signal_at_event':
    number = 1 + len(events) * at // 1000
    arguments = {'folder': driver.where(name), 'number': number}
  elif kind == 'signal_at_call':
    arguments = {'where': at[0], 'number': at[1]}
  else:
    arguments = {'number': at}
  return {kind: {**arguments, 'name': signal_name}}


def _add_signals(driver, events):
  after_rows = [x for x in events if '/rows' not in x]
  for name, (kind, at, _, _) in _POINTS.items():
    # A run stopped during the preparation of rows needs its own rows.
    early = kind == 'signal_at_event' and at < _PREPARING
    rows = {} if early else {'rows': 'straight'}
    faults = _signal(driver, name, events if early else after_rows)
    driver.add(name, faults, _KEEP, **rows)
    driver.add(name, {}, _KEEP, **rows)


# Damage by item of the checkpoint.
_DAMAGE = {'params': 'flip', 'position': 'cut'}


def _add_damage(driver):
  stop = {'where': _ABSORB, 'number': 4, 'name': 'SIGTERM'}
  for item, how in _DAMAGE.items():
    name = f'damaged-{item}'
    folder = f'{driver.workdir(name)}/checkpoints'
    damage = {'folder': folder, 'item': item, 'how': how}
    driver.add(name, {'signal_at_call': stop}, rows='straight')
    driver.add(name, {'damage': damage}, rows='straight')


# Initial mount options of a file system, and the exit code of a run on it.
_DISKS = {
  'read-only': ('ro', 2),
  'full': ('size=4k', 1),
  'two-checkpoints': ('size=9m', 1),
}


def _add_disks(driver):
  for name, (options, _) in _DISKS.items():
    disk = os.path.dirname(driver.workdir(name, 'disk'))
    bad = {'folder': disk, 'options': options}
    good = {'folder': disk, 'options': 'remount,rw,size=64m'}
    where = {'inside': 'disk', 'rows': 'straight'}
    driver.add(name, {'mount': bad}, **where)
    driver.add(name, {'mount': good}, **where)


def _add_readers(add):
  # The first four reads are for run.json, and eight are for an evaluation.
  fail = {'where': _READ, 'first': 13, 'last': 16, 'seconds': 0}
  slow = {'where': _READ, 'number': 24, 'seconds': 3}
  add('reader-fails', {'fail_at_call': fail, 'slow_at_call': slow})
  for_good = {**fail, 'last': 10**9}
  add('reader-broken', {'fail_at_call': for_good})
  add('reader-broken', {})
  hang = {**slow, 'seconds': 300}
  limit = '--config.data.read.timeout_s=5'
  add('reader-hangs', {'slow_at_call': hang}, limit)


def _add_nonfinite(add):
  nan, skip = {'nan_at_steps': {'steps': [3]}}, '--config.nonfinite=skip'
  add('nan-skipped', nan, skip)
  add('nan-stopped', nan)
  add('nan-stopped', nan, skip)
  stop = {'where': _ABSORB, 'number': 4, 'name': 'SIGTERM'}
  add('nan-preempted', {**nan, 'signal_at_call': stop}, skip)
  add('nan-preempted', nan, skip)
  add(
    'nan-limit',
    {'nan_at_steps': {'steps': [1, 2, 3, 4]}},
    skip,
    '--config.max_consecutive_skips=2',
  )


def _add_clock(add):
  add(
    'clock-preempted',
    {
      'jump_clock': {'seed': 1},
      'signal_at_call': {'where': _ABSORB, 'number': 4, 'name': 'SIGTERM'},
    },
  )
  add('clock-preempted', {'jump_clock': {'seed': 2}})


def _can_mount(folder):
  """Returns whether this user may mount; a container's root may not."""
  os.makedirs(folder)
  call = ['mount', '-t', 'tmpfs', '-o', 'size=4k', 'kd-test', folder]
  try:
    subprocess.run(call, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    return False
  subprocess.run(['umount', folder], check=True)
  return True


@pytest.fixture(scope='module')
def codes(driver, straight):
  """Exit codes of all chains; they run in one process, two at a time."""
  mounts = _can_mount(f'{driver.folder}/try-mount')
  _add_signals(driver, straight[1])
  _add_damage(driver)
  for add_chains in (_add_readers, _add_nonfinite, _add_clock):
    add_chains(functools.partial(driver.add, rows='straight'))
  if mounts:
    _add_disks(driver)
  yield driver.go()
  if mounts:
    for name in _DISKS:
      disk = os.path.dirname(driver.workdir(name, 'disk'))
      subprocess.run(['umount', disk], check=True)


@pytest.mark.parametrize('name', _POINTS)
def test_killed_and_preempted_runs_end_alike(name, driver, straight, codes):
  assert codes[name] == [_POINTS[name][3], 0], driver.log(name, 1)
  fault_chains.assert_same(driver.workdir(name), straight[0])
  if 'SIGTERM' in name:
    assert driver.log(name, 0).endswith('run the same command to resume\n')


@pytest.mark.parametrize('item', _DAMAGE)
def test_damaged_checkpoints(item, driver, straight, codes):
  name = f'damaged-{item}'
  assert codes[name] == [42, 0], driver.log(name, 1)
  for words in (f'checkpoint 5 is damaged: {item}/', 'resumes from step 4'):
    assert words in driver.log(name, 1)
  aside = f'{driver.workdir(name)}/damaged-checkpoints'
  assert os.listdir(aside) == ['5.0']
  shutil.rmtree(aside)
  fault_chains.assert_same(driver.workdir(name), straight[0])


@pytest.mark.parametrize('name', _DISKS)
def test_disks_without_write_access(name, driver, straight, codes):
  if name not in codes:
    pytest.skip('only a user who may mount has a disk like this')
  code = _DISKS[name][1]
  assert codes[name] == [code, 0], driver.log(name, 0) + driver.log(name, 1)
  said = driver.error(name)
  assert said.startswith('kd: error: '), driver.log(name, 0)
  assert ('cannot be written' if code == 2 else f'/{name}/disk/') in said, said
  fault_chains.assert_same(driver.workdir(name, 'disk'), straight[0])


def test_failing_and_hanging_readers(driver, straight, codes):
  assert codes['reader-fails'] == [0] and codes['reader-hangs'] == [1]
  assert codes['reader-broken'] == [1, 0]
  for words in ('array_record: row', '5 attempts', 'Input/output error'):
    assert words in driver.error('reader-broken')
  said = driver.error('reader-hangs')
  assert 'kd: error: ' in said and 'data.read.timeout_s' in said
  for name in ('fails', 'broken'):
    fault_chains.assert_same(driver.workdir(f'reader-{name}'), straight[0])


def test_nonfinite_steps(driver, straight, codes):
  assert codes['nan-skipped'] == [0], driver.log('nan-skipped', 0)
  assert codes['nan-stopped'] == [3, 0], driver.log('nan-stopped', 1)
  assert codes['nan-preempted'] == [42, 0], driver.log('nan-preempted', 1)
  assert codes['nan-limit'] == [3]
  assert 'step 4: ' in driver.error('nan-stopped')
  assert 'step 4: ' in driver.error('nan-limit')
  skipped = fault_chains.end_state(driver.workdir('nan-skipped'))
  (count,) = (v for k, v in skipped[0].items() if k.endswith('count'))
  assert count == fault_chains.STEPS - 1
  assert all(np.isfinite(v).all() for v in skipped[0].values())
  lines = [x for x in skipped[1]['metrics'] if x['phase'] == 'train']
  assert [x['train/nonfinite'] for x in lines] == [0, 1]
  for name in ('nan-stopped', 'nan-preempted'):
    fault_chains.assert_same(driver.workdir(name), skipped)


def test_clock_jumps(driver, straight, codes):
  name = 'clock-preempted'
  assert codes[name] == [42, 0]
  fault_chains.assert_same(driver.workdir(name), straight[0])
  with open(f'{driver.workdir(name)}/metrics.jsonl') as f:
    steps = [json.loads(line) for line in f]
  times = [x['perf/step_time_s'] for x in steps if x['phase'] == 'train']
  assert all(0 < t < 600 for t in times)


def test_a_tied_student_has_one_table(straight):
  arrays = straight[0][0]
  rows = arrays['params/embedding'].shape[0]
  tables = [k for k, v in arrays.items() if rows in v.shape]
  assert [k for k in tables if k.startswith('params/')] == ['params/embedding']


def test_a_second_run_is_refused(driver, straight):
  with lock.hold(driver.workdir('straight'), '--workdir'):
    driver.add('straight', {}, _KEEP)
    assert driver.go() == {'straight': [2]}
  said = driver.error('straight')
  assert f'in use by process {os.getpid()} on ' in said, said
  fault_chains.assert_same(driver.workdir('straight'), straight[0])
