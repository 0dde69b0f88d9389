"""Tests writing a cache with kills, bad disks and several processes."""

import functools
import json
import os
import pathlib
import re
import socket
import subprocess

import numpy as np
import pytest

from kd.teachers.cache import compression
from kd.teachers.cache import manifest as manifest_lib
from kd.teachers.cache import records
from kd.teachers.cache import shards
from tests import command
from tests import fault_chains
from tests import warm

_ROWS, _FILES = 10, 4
_SMALL = (
  '--mode=cache',
  f'--config.data.examples={_ROWS}',
  '--config.cache.shard_rows=3',
  '--config.cache.batch_size=4',
  '--config.cache.method.entries=16',
)
_WRITE = 'kd.teachers.cache.shards:Writer.write'
# Points of kills: at a record, at a complete file, around the manifest.
_KILLED = {
  'record': (_WRITE, 4),
  'last-file': ('kd.teachers.cache.shards:Writer.finish', _FILES),
  'publish': ('kd.teachers.cache.manifest:publish', 1),
  'tidy': ('kd.teachers.cache.shards:remove_temporary_files', 1),
}
_EVENTS = (600,)  # In thousandths of the undisturbed run's file events.


class _Driver(fault_chains.Driver):
  def cache(self, name):
    return f'{self.where(name)}/disk/cache'

  def write(self, name, faults, *more):
    folder = f'--config.cache.folder={self.cache(name)}'
    self.add(name, faults, *_SMALL, folder, *more, rows='straight')


def _bytes(folder):
  found = {}
  for name in sorted(os.listdir(folder)):
    with open(f'{folder}/{name}', 'rb') as f:
      found[name] = f.read()
  return found


@pytest.fixture(scope='module')
def driver(tmp_path_factory):
  return _Driver(tmp_path_factory.mktemp('caches'))


@pytest.fixture(scope='module')
def straight(driver):
  """The files and the file events of an undisturbed run."""
  file = f'{driver.folder}/events'
  count = {'folder': driver.cache('straight'), 'file': file}
  driver.write('straight', {'count_events': count})
  assert driver.go() == {'straight': [0]}, driver.log('straight', 0)
  with open(file) as f:
    return _bytes(driver.cache('straight')), len(json.load(f))


def _can_mount(folder):
  os.makedirs(folder)
  call = ['mount', '-t', 'tmpfs', '-o', 'size=4k', 'kd-test', folder]
  try:
    subprocess.run(call, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    return False
  subprocess.run(['umount', folder], check=True)
  return True


# A file has 128 KiB. The first disk fits one file, the second almost all.
_DISKS = {'full': 'size=200k', 'full-at-last': 'size=540k'}


@pytest.fixture(scope='module')
def codes(driver, straight):
  """The exit codes of all chains."""
  for name, (where, number) in _KILLED.items():
    kill = {'where': where, 'number': number, 'name': 'SIGKILL'}
    driver.write(name, {'signal_at_call': kill})
    driver.write(name, {})
  for n in _EVENTS:
    number = 1 + straight[1] * n // 1000
    kill = {'folder': driver.cache(f'event-{n}'), 'number': number}
    driver.write(f'event-{n}', {'signal_at_event': {**kill, 'name': 'SIGKILL'}})
    driver.write(f'event-{n}', {})
  told = {'where': _WRITE, 'number': 5, 'name': 'SIGTERM'}
  driver.write('told', {'signal_at_call': told})
  driver.write('told', {})
  mounts = _can_mount(f'{driver.folder}/try-mount')
  for name, options in _DISKS.items() if mounts else ():
    disk = os.path.dirname(driver.cache(name))
    driver.write(name, {'mount': {'folder': disk, 'options': options}})
    options = 'remount,size=64m'
    driver.write(name, {'mount': {'folder': disk, 'options': options}})
  yield driver.go()
  for name in _DISKS if mounts else ():
    disk = os.path.dirname(driver.cache(name))
    subprocess.run(['umount', disk], check=True)


@pytest.mark.parametrize('name', [*_KILLED, *(f'event-{n}' for n in _EVENTS)])
def test_killed_and_uninterrupted_runs_write_equal_caches(
  name, driver, straight, codes
):
  assert codes[name] == [-9, 0], driver.log(name, 0) + driver.log(name, 1)
  assert _bytes(driver.cache(name)) == straight[0]


def test_a_notice_ends_the_run_at_once(driver, straight, codes):
  assert codes['told'] == [42, 0], driver.log('told', 0)
  assert driver.log('told', 0).endswith('run the same command to resume\n')
  assert _bytes(driver.cache('told')) == straight[0]


@pytest.mark.parametrize('name', _DISKS)
def test_a_full_disk(name, driver, straight, codes):
  if name not in codes:
    pytest.skip('only a user who may mount has a disk like this')
  assert codes[name] == [1, 0], driver.log(name, 0) + driver.log(name, 1)
  said = driver.error(name)
  assert said.startswith('kd: error: ') and 'same command resumes' in said, said
  if name == 'full':
    assert driver.cache(name) in said, said
  assert _bytes(driver.cache(name)) == straight[0]


def _rows(folder):
  """Returns all records of a cache, in order."""
  with open(f'{folder}/manifest.json') as f:
    manifest = json.load(f)
  request = manifest['request']
  method = compression.METHODS.build(request['method'], 'method')
  digest = manifest_lib.cache_digest(request)
  return [
    records.decode(record, method, request['vocab_size'], digest)
    for facts in manifest['shards']
    for record in shards.read_records(folder, facts)
  ]


def _free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def _start(forks, driver, name, count, faults):
  """Starts processes that write one cache."""
  arguments = [
    fault_chains.SMALL[0],
    *driver.arguments,
    *_SMALL,
    f'--config.data.folder={driver.folder}/straight/rows',
    f'--config.cache.folder={driver.cache(name)}',
    f'--workdir={driver.workdir(name)}',
    '--config.processes.dead_after_s=20',
    f'--config.processes.coordinator=127.0.0.1:{_free_port()}',
    f'--config.processes.count={count}',
  ]
  os.makedirs(driver.where(name), exist_ok=True)
  return [
    forks.start(
      [*arguments, f'--config.processes.index={i}'],
      {'alternate_layers': {}, **faults.get(i, {})},
      {},
      f'{driver.where(name)}/log{i}',
    )
    for i in range(count)
  ]


def test_two_processes_write_separate_shards(driver, straight):
  forks = warm.Warm(command.environment())
  start = functools.partial(_start, forks, driver, 'two')
  kill = {'where': _WRITE, 'number': 4, 'name': 'SIGKILL'}
  first = [p.wait(200) for p in start(2, {1: {'signal_at_call': kill}})]
  assert first == [42, -9]
  cache = driver.cache('two')
  whole = [x for x in os.listdir(cache) if x.endswith('.array_record')]
  assert 1 <= len(whole) < _FILES and 'manifest.json' not in os.listdir(cache)
  times = {x: os.stat(f'{cache}/{x}').st_mtime_ns for x in whole}
  # One process resumes the work of two.
  driver.write('two', {})
  assert driver.go() == {'two': [0]}, driver.log('two', 0)
  for name, time in times.items():
    assert os.stat(f'{cache}/{name}').st_mtime_ns == time
  start = functools.partial(_start, forks, driver, 'both')
  both = [p.wait(200) for p in start(2, {})]
  forks.close()
  assert both == [0, 0]
  assert _bytes(driver.cache('both')).keys() == straight[0].keys()
  expected = _rows(driver.cache('straight'))
  assert len(expected) == _ROWS
  for name in ('two', 'both'):
    for got, like in zip(_rows(driver.cache(name)), expected, strict=True):
      assert got.digest == like.digest
      np.testing.assert_array_equal(got.ids, like.ids)
      np.testing.assert_allclose(got.logprobs, like.logprobs, atol=0.15)
      np.testing.assert_allclose(
        got.target_logprob, like.target_logprob, 2e-3, 1e-4
      )


def test_commands_on_the_page_run(tmp_path):
  text = pathlib.Path('docs/cache.md').read_text()
  (block,) = re.findall(r'^```\n(.*?)^```', text, re.M | re.S)
  lines = block.replace('\\\n', '').splitlines()
  assert len(lines) == 2
  for line in lines:
    program, arguments = line.split('-m kd ')
    assert program == 'python '
    arguments = arguments.replace('=/tmp/', f'={tmp_path}/').split()
    small = (*command.QUICK[1:], '--config.evaluation.baseline=False')
    code, _, err = command.run([*arguments, *small], command.ALTERNATING)
    assert code == 0, err
  assert (tmp_path / 'kd-cache-report' / 'cache.json').exists()
  assert (tmp_path / 'kd-from-cache' / 'report.md').exists()
