"""Tests on-policy training with several processes."""

import shutil

import pytest

from tests import command
from tests import process_runs


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  folder = tmp_path_factory.mktemp('on_policy_processes')
  with process_runs.starting(folder) as start:
    yield start


def test_two_processes_write_the_rows_of_one(start):
  """The number of processes does not affect the samples."""
  changes = (
    '--config.teacher.source=on_policy',
    '--config.data.pack=False',
    '--config.rollout.max_new_tokens=8',
    '--config.rollout.every=2',
    '--config.rollout.buffer=12',
  )
  one = start('writes-alone', 1, *changes)
  two = start('writes', 2, *changes)
  for run in (one, two):
    assert set(run.finish()) == {0}, run.text(0, 'err')
  expected = command.metrics(one.workdir)
  answers = {x['rollout/answer'] for x in expected if x['phase'] == 'text'}
  assert len(answers) > 2
  process_runs.assert_as_alone(two, expected)


def test_two_processes_sample_ahead_and_resume_identically(start):
  """One of each process's four devices samples; rows are 1 or 2 steps old."""
  changes = (
    '--config.teacher.source=on_policy',
    '--config.data.pack=False',
    '--config.data.batch_size=12',
    '--config.rollout.max_new_tokens=8',
    '--config.rollout.devices=2',
    '--config.rollout.staleness=2',
    '--config.rollout.importance_cap=1.02',
    '--config.mesh.data=3',
    '--config.mesh.fsdp=2',
    '--config.evaluation.batch_size=36',
  )
  run = start('ahead', 2, *changes, devices=4)
  assert run.finish() == [0, 0], run.text(0, 'err')
  whole = command.metrics(run.workdir)
  trained = [x for x in whole if x['phase'] == 'train']
  assert [x['train/rollout/age'] for x in trained] == [0, 1, 2, 1, 2, 1]
  weights, truncated = (
    [x[f'train/rollout/importance_{name}'] for x in trained]
    for name in ('weight', 'truncated')
  )
  assert abs(weights[0] - 1) < 1e-4 and truncated[0] == 0
  assert max(truncated) > 0 and max(abs(w - 1) for w in weights) > 1e-3
  # The rows of step 4 were sampled before step 3 and are in the checkpoint.
  shutil.rmtree(f'{run.workdir}/checkpoints/6')
  again = start('ahead', 2, *changes, devices=4)
  assert again.finish() == [0, 0], again.text(0, 'err')
  assert 'resumes from step 4' in again.text(0, 'out')
  assert command.metrics(run.workdir) == whole
