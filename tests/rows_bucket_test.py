"""Tests that rows in a bucket equal those in a folder."""

import json
import signal

import pytest

from kd.core import buckets
from kd.core import objects
from kd.input_pipeline import object_claims
from kd.input_pipeline import opened_files
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import shard_cases
from kd.input_pipeline import shard_files
from kd.input_pipeline import user_cases
from tests import object_store


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  return shard_cases.files(
    shard_cases.prepared(tmp_path_factory.mktemp('rows')).folder
  )


@pytest.fixture
def store(monkeypatch):
  with object_store.serve_here(monkeypatch) as store:
    yield store


def _objects(store):
  """Returns the files of the bucket's only folder, except for the counts."""
  names = [name.split('/') for name in store.names('bucket')]
  (folder,) = {name[1] for name in names}
  assert len(folder.split('-')) == 5
  return {
    name: store.read('bucket', f'rows/{folder}/{name}')
    for _, _, name in names
    if name != 'manifest.json' and not name.endswith(shard_files.COUNTS)
  }


def test_completed_shards_of_a_killed_process_are_used(
  alone, store, monkeypatch
):
  url = 'gs://bucket/rows'
  store.inject(object_store.FAULTS, every=9)
  process = shard_cases.start(f'killed({url!r})')
  assert process.wait() == -signal.SIGKILL
  # Treat its claim as not renewed for a minute.
  monkeypatch.setattr('kd.input_pipeline.claims.DEAD_AFTER_S', 0.0)
  write, calls = shard_files.write, []

  def count(*arguments):
    calls.append(arguments)
    return write(*arguments)

  monkeypatch.setattr(shard_files, 'write', count)
  del store.writes[:]
  part = shard_cases.prepared(url)
  total = len(part.counts['shards'])
  assert len(calls) == total - 2 and not part.reused
  assert _objects(store) == alone
  assert [n for n in store.writes if 'claim' not in n][-1].endswith(
    'manifest.json'
  )
  # Another process reuses the rows.
  buckets._copies.clear()
  del store.writes[:]
  part = shard_cases.prepared(url)
  assert part.reused and not store.writes
  assert {
    name: data
    for name, data in shard_cases.files(part.folder).items()
    if not name.endswith(shard_files.COUNTS)
  } == alone
  # So does a process that checked before they were complete.
  look, answers = prepared_lib.reusable, iter([None])
  with monkeypatch.context() as m:
    m.setattr(
      prepared_lib, 'reusable', lambda *args: next(answers, look(*args))
    )
    assert shard_cases.prepared(url).folder == part.folder
  # Rows that are prepared again have a new folder.
  assert shard_cases.prepared(url, refresh=True).folder != part.folder


def test_processes_divide_the_shards(alone, store, monkeypatch):
  url = 's3://bucket/rows'
  monkeypatch.setattr(object_claims.ObjectClaims, 'poll_s', 0.1)
  process = shard_cases.start(
    'from kd.input_pipeline.object_claims import ObjectClaims; '
    f'ObjectClaims.poll_s = 0.1; shared({url!r})'
  )
  assert process.stdout.readline() == 'began\n'
  total = sum(name.endswith(shard_files.ROWS) for name in alone)
  write, calls = shard_files.write, []

  def count(*arguments):
    calls.append(arguments)
    if len(calls) == total - 2:
      process.stdin.write('\n')
      process.stdin.flush()
    return write(*arguments)

  monkeypatch.setattr(shard_files, 'write', count)
  shard_cases.prepared(url)
  theirs = int(process.communicate()[0])
  assert process.returncode == 0
  assert theirs > 0 and len(calls) + theirs == total
  assert _objects(store) == alone
  (manifest,) = [n for n in store.writes if n.endswith('manifest.json')]
  assert objects.names(url) and manifest


_OPENED = """
def read(split, shuffle_files):
  with open(locations.local('gs://bucket/data/mine.jsonl')) as f:
    texts = [json.loads(line)['targets'] for line in f]
  return tf.data.Dataset.from_tensor_slices({'inputs': texts, 'targets': texts})


add(NAME, seqio.FunctionDataSource(read, splits=['train']))
"""
_DECLARED = """
DATA_FILES = ('s3://bucket/data/*.jsonl',)


def read(split, shuffle_files):
  place = locations.local('s3://bucket/data')
  return tf.data.TextLineDataset(os.path.join(place, 'mine.jsonl'))


def parse(dataset):
  return dataset.map(lambda line: {'inputs': line, 'targets': line})


add(NAME, seqio.FunctionDataSource(read, splits=['train']), parse)
"""


@pytest.mark.parametrize(
  'name, body', [('bucket_opened', _OPENED), ('bucket_declared', _DECLARED)]
)
def test_files_of_a_users_task_are_known_by_their_content(
  name, body, store, tmp_path, monkeypatch
):
  user = user_cases.User(tmp_path, monkeypatch)
  user.module(name, body, imports='from kd.data_files import locations')

  def examples(count):
    lines = (json.dumps({'targets': f'{count}'}) + '\n' for _ in range(count))
    objects.write('gs://bucket/data/mine.jsonl', ''.join(lines).encode())
    buckets._copies.clear()  # As in another process.
    opened_files._of_module.cache_clear()
    return user.prepare(name)

  first = examples(8)
  assert first.counts['examples'] == 8 and not first.reused
  assert not any('warning' in line for line in user.lines)
  assert examples(8).reused
  changed = examples(40)
  assert changed.counts['examples'] == 40 and not changed.reused
  assert examples(8).folder == first.folder
