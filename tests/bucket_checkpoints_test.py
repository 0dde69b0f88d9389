"""Tests which checkpoints in buckets are complete, kept or put aside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.checkpoints import digests
from kd.checkpoints import manager
from kd.checkpoints import repair
from kd.core import errors
from kd.core import layout
from kd.core import objects
from kd.core import paths
from tests import object_store


def _items(value):
  return {
    'params': {'w': jnp.arange(64.0) * value},
    'optimizer': {'n': jnp.full(3, value)},
  }


def _restored(workdir, step):
  reading = manager.Manager(workdir, 1, read_only=True)
  items, position = reading.restore(step, jax.eval_shape(lambda: _items(1.0)))
  reading.close()
  assert position == {'rows': step}
  return items


@pytest.fixture(scope='module')
def saved():
  """A store, and the URL of a workdir with checkpoints 2 (the best) and 4.

  tests/bucket_runs_slow_test.py uses a gs:// workdir.
  """
  url = 's3://bucket/run'
  with (
    pytest.MonkeyPatch.context() as monkeypatch,
    object_store.serve_here(monkeypatch) as store,
  ):
    saving = manager.Manager(paths.expand(url), 1)
    store.inject(object_store.FAULTS, every=9)
    for step, quality in ((1, 3.0), (2, 1.0), (4, None)):
      saving.save(step, _items(float(step)), {'rows': step}, quality)
    saving.wait(4)
    saving.close()
    assert not store.faults_left
    yield store, url


@pytest.fixture
def bucket(saved):
  """The same store and URL, for tests that change the objects."""
  store, url = saved
  before = dict(store.objects)
  yield store, url
  store.objects = before


def _steps(store):
  return {name.split('/')[2] for name in store.names('bucket', 'run/check')}


def test_the_latest_and_the_best_are_kept_and_restored(bucket, tmp_path):
  store, url = bucket
  workdir = paths.expand(url)
  assert _steps(store) == {'', '2', '4'}
  assert manager.latest_step(workdir) == 4 and manager.best_step(workdir) == 2
  for step in (2, 4):
    got = _restored(workdir, step)
    jax.tree.map(np.testing.assert_array_equal, got, _items(float(step)))
  # The objects copied to files are a valid checkpoint on disk.
  store.copy_to('bucket', 'run', str(tmp_path))
  got = _restored(str(tmp_path), 4)
  jax.tree.map(np.testing.assert_array_equal, got, _items(4.0))
  assert digests.problem(str(tmp_path / 'checkpoints' / '4')) == ''
  # The commit object is the last object written for a checkpoint.
  written = [n for n in store.writes if n.startswith('run/checkpoints/4/')]
  assert written[-1] == 'run/checkpoints/4/commit_success.txt'
  assert written.index('run/checkpoints/4/digests.json') == len(written) - 3


@pytest.mark.parametrize('name', ['digests.json', '_CHECKPOINT_METADATA'])
def test_faults_of_the_store_damage_no_checkpoint(bucket, name):
  store, url = bucket
  store.forbidden = f'4/{name}'
  with pytest.raises(PermissionError):
    repair.repair(manager.folder_of(paths.expand(url)))
  store.forbidden = ''
  assert not store.names('bucket', 'run/damaged')


def test_checkpoints_without_a_commit_object_are_ignored(bucket):
  store, url = bucket
  workdir = paths.expand(url)
  objects.remove([f'{url}/checkpoints/4/{layout.COMMIT}'])
  assert manager.latest_step(workdir) == 2
  assert repair.repair(manager.folder_of(workdir)) == []
  manager.Manager(workdir, 1).close()
  assert _steps(store) == {'', '2'}


def test_a_damaged_checkpoint_is_put_aside(bucket):
  store, url = bucket
  workdir = paths.expand(url)
  folder = manager.folder_of(workdir)
  name = max(
    store.names('bucket', 'run/checkpoints/4/params/d/'),
    key=lambda x: len(store.read('bucket', x)),
  )
  data = bytearray(store.read('bucket', name))
  data[len(data) // 2] ^= 0x80
  objects.write(f'{url[:2]}://bucket/{name}', bytes(data))
  (line,) = repair.repair(folder)
  assert 'does not match its digest' in line
  assert line.endswith(f'now in {url}/damaged-checkpoints/4.0')
  assert _steps(store) == {'', '2'} and manager.latest_step(workdir) == 2
  moved = name.replace('run/checkpoints/4/', 'run/damaged-checkpoints/4.0/')
  assert store.read('bucket', moved) == bytes(data)
  objects.remove([f'{url}/checkpoints/2/{digests.FILE}'])
  with pytest.raises(errors.ConfigError, match='no checkpoint is intact'):
    repair.repair(folder)
