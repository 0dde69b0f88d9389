"""Rows do not depend on the preparing processes, nor on interruptions."""

import json
import os
import pathlib
import signal

import pytest

from kd.core import errors
from kd.input_pipeline import shard_cases
from kd.input_pipeline import shard_files
from kd.input_pipeline import shard_workers
from kd.input_pipeline import shards
from kd.input_pipeline import work_folders


@pytest.fixture(scope='module', autouse=True)
def _shards():
  before = shards.CHARACTERS
  yield
  shards.CHARACTERS = before


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  return shard_cases.prepared(tmp_path_factory.mktemp('alone'))


def test_shards_contain_the_examples_in_order(alone, tmp_path):
  whole = shard_cases.prepared(tmp_path, 16 << 20)
  assert len(whole.counts['shards']) == 1 < 4 < len(alone.counts['shards'])
  assert list(alone.examples()) == list(whole.examples())
  for name in ('examples', 'tokens', 'target_weight', 'rationale_weight'):
    assert alone.counts[name] == whole.counts[name]
  for path in alone.files(shard_files.EXAMPLES)[:-1]:
    sizes = [
      sum(len(row[k]) for k in ('id', 'inputs', 'targets', 'rationale'))
      for row in map(json.loads, pathlib.Path(path).read_text().splitlines())
    ]
    assert sum(sizes[:-1]) < shard_cases.CHARACTERS <= sum(sizes)


def test_the_number_of_workers_changes_nothing(alone, tmp_path):
  part = shard_cases.prepared(tmp_path, workers=3)
  assert shard_cases.files(part.folder) == shard_cases.files(alone.folder)
  assert os.listdir(tmp_path) == [os.path.basename(part.folder)]


def test_errors_of_workers_are_raised_as_user_errors(tmp_path):
  with pytest.raises(errors.ConfigError, match="data.long: .*'refuse'"):
    shard_cases.prepared(tmp_path, workers=2, length=30, long='refuse')
  assert not os.listdir(tmp_path)


def test_a_dead_worker_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(shard_workers, '_MODULE', 'this')  # Prints, and ends.
  with pytest.raises(shard_workers.WorkerError, match='ended with 0 at arith'):
    shard_cases.prepared(tmp_path, workers=2)
  assert not os.listdir(tmp_path)


def test_completed_shards_of_a_killed_process_are_kept(
  alone, tmp_path, monkeypatch
):
  process = shard_cases.start(f'killed({str(tmp_path)!r})')
  assert process.wait() == -signal.SIGKILL
  (work,) = tmp_path.iterdir()
  kept = {p.name: p.stat().st_ino for p in work.glob('*.array_record')}
  assert len(kept) == 2
  # A third shard whose bytes did not reach the disk.
  third = sorted(kept)[1]
  (work / third).write_bytes(b'')
  del kept[third]
  part = shard_cases.prepared(tmp_path, workers=2)
  assert shard_cases.files(part.folder) == shard_cases.files(alone.folder)
  for name, inode in kept.items():
    assert os.stat(os.path.join(part.folder, name)).st_ino == inode
  assert os.listdir(tmp_path) == [os.path.basename(part.folder)]


def test_processes_with_a_shared_folder_divide_the_shards(
  alone, tmp_path, monkeypatch
):
  total = len(alone.counts['shards'])
  process = shard_cases.start(f'shared({str(tmp_path)!r})')
  assert process.stdout.readline() == 'began\n'
  write, calls = shard_files.write, []

  def count(*arguments):
    calls.append(arguments)
    if len(calls) == total - 2:
      # The other process has claimed two shards, so this one waits for them.
      process.stdin.write('\n')
      process.stdin.flush()
    return write(*arguments)

  monkeypatch.setattr(shard_files, 'write', count)
  part = shard_cases.prepared(tmp_path)
  assert process.communicate()[0] == '2\n' and process.returncode == 0
  assert len(calls) == total - 2
  assert shard_cases.files(part.folder) == shard_cases.files(alone.folder)
  assert os.listdir(tmp_path) == [os.path.basename(part.folder)]


def test_an_error_keeps_the_folder_of_other_workers(tmp_path):
  path = tmp_path / '.shards-key'
  for others in (['.other.claim'], []):
    with (
      pytest.raises(errors.ConfigError),
      work_folders.work_folder(str(tmp_path / 'rows'), 'key') as (_, claims),
    ):
      assert claims.take('mine')
      for name in others:
        (path / name).write_bytes(b'of another machine')
      raise errors.ConfigError('data', 'is wrong')
    assert [p.name for p in path.glob('.*')] == others
    for name in others:
      (path / name).unlink()
  with (
    pytest.raises(KeyboardInterrupt),
    work_folders.work_folder(str(tmp_path / 'rows'), 'key'),
  ):
    path.rename(tmp_path / 'complete')
    raise KeyboardInterrupt
