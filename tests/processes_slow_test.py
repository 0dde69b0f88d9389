"""Tests runs of several local processes, started from their command lines.

Each process runs `kd.main` in a fork of a process that has imported it.
"""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest

from kd.pruning import scores
from tests import command
from tests import process_runs

# A process sleeps before this step's rows; rows are read two steps ahead.
_SLOW = 4


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('processes')


@pytest.fixture(scope='module')
def start(folder):
  """A function that starts runs, which end with the fixture."""
  with process_runs.starting(folder) as start:
    yield start


@pytest.fixture(scope='module')
def alone(start):
  run = start('alone', 1)
  assert run.finish() == [0], run.text(0, 'err')
  return command.metrics(run.workdir)


def _checkpoints(run):
  return sorted(os.listdir(f'{run.workdir}/checkpoints'), key=int)


def test_two_processes_read_separate_rows_and_wait_for_each_other(start, alone):
  run = start('two', 2, sleeps={f'1:{_SLOW}': 8.0})
  assert run.finish() == [0, 0], run.text(0, 'err') + run.text(1, 'err')
  process_runs.assert_as_alone(run, alone)
  assert f'waiting for process 1 of 2: its rows of step {_SLOW}' in run.text(
    0, 'out'
  )
  # Both processes print a line of Gloo, from C++.
  lines = run.text(1, 'out').splitlines()
  assert all(line.startswith('[Gloo]') for line in lines), lines
  for i, numbers in enumerate(([0, 1, 2, 3], [4, 5, 6, 7])):
    with open(f'{run.reads}.{i}') as f:
      read = [json.loads(line) for line in f]
    assert len(read) >= 6
    assert all(found == numbers for _, *found in read)
  # The last evaluation batch has a row only on process 0.
  met = run.meetings(0)
  assert met == run.meetings(1)
  assert met.count('jit(update)') == 6 and 'from_first' in met, met


def test_two_stages_resume_bit_identically(start, folder):
  """Each process has one stage of the student's layers on four devices."""
  changes = (
    *('--config.mesh.pipeline=2', '--config.teacher.mesh.fsdp=8'),
    *('--config.student.variant=', '--config.student.init=teacher'),
    '--config.student.keep_layers=(0,1,4,5)',
  )

  def metrics():
    run = start('stages', 2, *changes, devices=4)
    assert run.finish() == [0, 0], run.text(0, 'err') + run.text(1, 'err')
    lines = command.metrics(run.workdir)
    return run, [x for x in lines if x['step'] > 4]

  run, first = metrics()
  shutil.rmtree(folder / 'stages' / 'checkpoints' / '6')
  run, again = metrics()
  assert 'resumes from step 4' in run.text(0, 'out')
  assert len(first) > 2 and again == first


@pytest.mark.parametrize('victim', [0, 1])
def test_a_dead_process_ends_the_other_and_one_can_continue(
  victim, start, alone
):
  run = start(f'killed{victim}', 2, sleeps={f'1:{_SLOW}': 900.0})
  run.wait_for('waiting for process 1')
  died = time.monotonic()
  run.processes[victim].kill()
  codes = run.finish()
  assert time.monotonic() - died < 60
  assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 42
  error = run.text(1 - victim, 'err')
  assert f'kd: error: process {victim} of 2 has died' in error, error
  assert _checkpoints(run)[-1] == str(_SLOW)
  if victim == 0:
    return
  code = start(
    f'killed{victim}', 1, '--config.mesh.tensor=2', devices=2
  ).finish()
  assert code == [0], run.text(0, 'err')
  assert f'resumes from step {_SLOW}' in run.text(0, 'out')
  process_runs.assert_as_alone(run, alone)


def test_a_notice_to_one_process_ends_all(start):
  run = start('told', 2, sleeps={f'1:{_SLOW + 1}': 10.0})
  run.wait_for('waiting for process 1')
  run.processes[1].send_signal(signal.SIGTERM)
  assert run.finish() == [42, 42], run.text(0, 'err')
  saved = _checkpoints(run)[-1]
  for i, reason in enumerate(['received a stop request', 'SIGTERM received']):
    assert f'{reason}: saved step {saved}' in run.text(i, 'err')


def test_two_processes_export_like_one(start, alone):
  """Parameters are sharded over both; process 0 writes identical bytes."""
  changes = ['--mode=export', '--config.export.formats=hf,gguf']
  split = ['--config.mesh.data=1', '--config.mesh.tensor=2']
  written = []
  for count in (1, 2):
    run = start('alone', count, *changes, *(split if count > 1 else ()))
    assert run.finish() == [0] * count, run.text(0, 'err')
    folder = f'{run.workdir}/export'
    names = [
      f'{x}/{n}' for x in ('hf', 'gguf') for n in os.listdir(f'{folder}/{x}')
    ]
    assert len(names) > 6
    written.append({})
    for name in names:
      with open(f'{folder}/{name}', 'rb') as f:
        written[-1][name] = f.read()
      if name.endswith('provenance.json'):
        claims = json.loads(written[-1][name])
        del claims['date']
        written[-1][name] = claims
    shutil.rmtree(folder)
  assert written[0] == written[1]


def test_two_processes_prune_like_one(start):
  """The same parts are kept, by the same scores up to rounding."""
  changes = (
    *(
      '--mode=prune',
      '--config.student.variant=',
      '--config.student.init=teacher',
    ),
    *('--config.student.prune.mlp_dim=256', '--config.export.dtype=float32'),
  )
  weights, found = [], []
  for count in (1, 2):
    run = start(f'prune{count}', count, *changes)
    assert run.finish() == [0] * count, run.text(0, 'err')
    folder = f'{run.workdir}/prune'
    with open(f'{folder}/hf/model.safetensors', 'rb') as f:
      weights.append(f.read())
    found.append(scores.read(f'{folder}/scores.json', ''))
  assert weights[0] == weights[1]
  for name in ('layers', 'channels', 'heads', 'similarity'):
    both = (getattr(x, name) for x in found)
    np.testing.assert_allclose(*both, rtol=1e-5)


def test_a_run_resumes_with_four_processes(start, alone):
  run = start('grows', 1, sleeps={f'0:{_SLOW}': 15.0})
  # A single process saves at once, even while it waits.
  run.wait_for('student step 3/6')
  run.processes[0].send_signal(signal.SIGTERM)
  assert run.finish() == [42], run.text(0, 'err')
  run = start('grows', 4, '--config.mesh.data=2', '--config.mesh.tensor=2')
  assert run.finish() == [0] * 4, run.text(0, 'err')
  assert 'resumes from step' in run.text(0, 'out')
  process_runs.assert_as_alone(run, alone)


def test_all_processes_name_a_hanging_reader(start):
  run = start(
    'hangs', 2, '--config.data.read.timeout_s=4', sleeps={f'1:{_SLOW}': 900.0}
  )
  assert run.finish() == [1, 1]
  message = f'process 1 of 2: rows of step {_SLOW}: not read in'
  assert message in run.text(0, 'err')


def test_a_process_does_not_wait_forever_for_others(start, folder):
  began = time.monotonic()
  run = start('lonely', 4, '--config.processes.start_timeout_s=5')
  for process in run.processes[1:]:
    process.kill()
  assert run.finish()[0] == 42
  assert time.monotonic() - began < 60
  error = run.text(0, 'err')
  assert 'expected 4 processes, but after 5 s' in error, error
  assert not os.path.exists(run.workdir)


def test_a_run_resumes_with_other_changeable_settings(start, alone, folder):
  """Devices, the rows' folder and intervals do not change the result."""
  shutil.copytree(folder / 'alone', folder / 'changed')
  # The workdir after a kill at step 4.
  shutil.rmtree(folder / 'changed' / 'checkpoints' / '6')
  changed = {
    'mesh.fsdp': [-1, 2],
    'data.folder': [f'{folder}/rows', f'{folder}/other-rows'],
    'log.every': [1, 2],
    'checkpoint.every': [2, 1],
    'evaluation.every': [0, 3],
    'evaluation.batch_size': [32, 16],
    'objective.chunk_tokens': [4096, 128],
    'optimizer.micro_batches': [1, 2],
  }
  flags = [f'--config.{name}={new}' for name, (_, new) in changed.items()]
  run = start('changed', 1, *flags, devices=2)
  assert run.finish() == [0], run.text(0, 'err')
  assert 'resumes from step 4' in run.text(0, 'out')
  recorded = json.loads((folder / 'changed' / 'run.json').read_text())
  (change,) = recorded['changes']
  assert change['step'] == 4 and change['fields'] == changed
  *_, train, evaluated = command.metrics(run.workdir)
  *_, fifth, sixth, expected = alone
  assert train['step'] == evaluated['step'] == 6
  for name, value in expected.items():
    if name.startswith('eval/'):
      np.testing.assert_allclose(evaluated[name], value, 1e-5, err_msg=name)
  # The metrics of both steps are averaged over their targets.
  tokens, losses = (
    [line[f'train/{name}'] for line in (fifth, sixth)]
    for name in ('target_weight', 'loss')
  )
  mean = np.average(losses, weights=tokens)
  np.testing.assert_allclose(train['train/loss'], mean, 1e-5)
  flags += ['--config.optimizer.lr.peak=1e-3']
  refused = start('changed', 1, *flags, devices=2)
  assert refused.finish() == [2]
  error = refused.text(0, 'err')
  assert 'optimizer.lr.peak: recorded 0.005, now 0.001' in error, error


# TensorFlow opens the file, so kd does not notice that it has changed.
_LINES = """
import os
import seqio
import tensorflow as tf

FILE = os.path.join(os.path.dirname(__file__), 'lines.txt')
TEXT = seqio.Feature(
  seqio.PassThroughVocabulary(size=0), add_eos=False, rank=0, dtype=tf.string
)


def read(split, shuffle_files, seed=None):
  lines = tf.data.TextLineDataset(FILE)
  return lines.map(lambda line: {'inputs': line, 'targets': line})


seqio.TaskRegistry.add(
  'lines',
  source=seqio.FunctionDataSource(read, splits=('train',)),
  preprocessors=[],
  output_features={'inputs': TEXT, 'targets': TEXT},
)
"""


def _prepared(home):
  """Returns the folders of prepared rows with their manifests, oldest first."""
  paths = (home / 'rows').glob('*/manifest.json')
  found = [(path.parent, json.loads(path.read_text())) for path in paths]
  return sorted(found, key=lambda x: x[1]['prepared'])


def test_rows_are_refreshed_in_each_folder(start, folder):
  """Covers damaged rows, rows of other data, and damaged rows again."""
  (folder / 'lines.py').write_text(_LINES)
  lines = [f'{i} and {i} make {2 * i}' for i in range(40)]
  (folder / 'lines.txt').write_text('\n'.join(lines))
  changes = (
    '--mode=cache',
    '--config.data.module=lines',
    '--config.data.mixture=lines',
    '--config.data.batch_size=6',
    '--config.evaluation.batch_size=6',
    '--config.cache.batch_size=6',
    '--config.cache.shard_rows=4',
    '--config.mesh.data=-1',
    '--config.mesh.fsdp=1',
  )
  homes = [folder / f'home-{i}' for i in range(3)]
  cache = f'--config.cache.folder={folder}/cache'
  old = start('old', 1, *changes, f'{cache}-old', homes=homes[:1])
  assert old.finish() == [0], old.text(0, 'err')
  ((path, _),) = _prepared(homes[0])
  rows = path / 'lines-00000.array_record'
  whole = rows.read_bytes()
  for home in homes[1:]:
    shutil.copytree(homes[0], home)
  for damaged in (homes[0], homes[2]):
    (damaged / rows.relative_to(homes[0])).write_bytes(whole[:-1])
  lines.reverse()
  (folder / 'lines.txt').write_text('\n'.join(lines))
  run = start(
    'new', 3, *changes, cache, '--config.data.refresh=True', homes=homes
  )
  assert run.finish() == [0] * 3, [run.text(i, 'err') for i in range(3)]
  manifest = json.loads((folder / 'cache' / 'manifest.json').read_text())
  for home in homes:
    path, there = _prepared(home)[-1]
    assert [manifest['request']['rows']['lines']['sha256']] == [
      part['rows_sha256'] for part in there['parts']
    ]
    examples = (path / 'lines-00000.examples.jsonl').read_text().splitlines()
    assert [json.loads(x)['inputs'] for x in examples] == lines
    assert (path / rows.name).read_bytes() != whole


def test_a_teacher_on_separate_devices_changes_nothing(start, alone):
  """Two devices of each process score and two train, also after resuming."""
  changes = (
    '--config.teacher.devices=4',
    '--config.teacher.mesh.fsdp=2',
    '--config.teacher.mesh.tensor=2',
  )
  run = start('apart', 2, *changes, devices=4)
  assert run.finish() == [0, 0], run.text(0, 'err')
  process_runs.assert_as_alone(run, alone)
  whole = command.metrics(run.workdir)
  shutil.rmtree(f'{run.workdir}/checkpoints/6')
  again = start('apart', 2, *changes, devices=4)
  assert again.finish() == [0, 0], again.text(0, 'err')
  assert 'resumes from step 4' in again.text(0, 'out')
  assert command.metrics(run.workdir) == whole
