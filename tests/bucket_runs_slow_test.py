"""Tests runs of two processes whose workdir and teacher are in a bucket.

KD_KILLS is the number of times to kill the run at random uploads, KD_FUZZ_SEED
the seed of these uploads. The last kill is after a checkpoint is complete.
"""

import hashlib
import json
import os
import random
import re

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import command
from tests import object_store
from tests import process_runs
from tests import warm

_KILLS = int(os.environ.get('KD_KILLS', '1'))
# Each item of a checkpoint has such an object, too, before the checkpoint has.
_COMMIT = re.compile(r'/checkpoints/\d+/commit_success\.txt$')
_STEPS = 6 + 2 * max(_KILLS - 2, 0)
# A checkpoint takes about 60 uploads.
_MOST_UPLOADS = 90
_CHANGES = (
  f'--config.steps={_STEPS}',
  '--config.checkpoint.every=2',
  '--config.evaluation.batch_size=8',
  '--config.evaluation.sets.held_out.examples=8',
)


@pytest.mark.parametrize('scheme', ['gs', 's3'][: 1 if _KILLS < 3 else 2])
def test_runs_killed_at_random_uploads_equal_a_run_on_disk(tmp_path, scheme):
  seed = int(os.environ.get('KD_FUZZ_SEED', random.randrange(10**6)))
  print(f'KD_FUZZ_SEED={seed}')
  chance = random.Random(seed)
  with object_store.serve('bucket') as (store, environment):
    forks = warm.Warm({**command.environment(), **environment})
    try:
      expected = process_runs.Run(forks, tmp_path, 'disk', 2, *_CHANGES)
      assert expected.finish() == [0, 0], expected.text(0, 'err')
      url = f'{scheme}://bucket/runs/killed'

      config = json.loads((tmp_path / 'disk' / 'config.json').read_text())
      teacher = config['teacher']['init'].removeprefix('hf:')
      for name in os.listdir(teacher):
        with open(f'{teacher}/{name}', 'rb') as f:
          store.put('bucket', f'teacher/{name}', f.read(), lambda _: True)
      arguments = (
        f'--workdir={url}',
        f'--config.teacher.init=hf:{scheme}://bucket/teacher',
        *_CHANGES,
      )

      def start(number):
        return process_runs.Run(forks, tmp_path, f'{number}', 2, *arguments)

      for number in range(_KILLS):
        store.inject(object_store.FAULTS, every=7)
        run = start(number)
        _kill_at(store, run, chance, number == _KILLS - 1)
        codes = run.finish()
        assert codes == [-9, -9], run.text(0, 'err') + run.text(1, 'err')
      store.watch = lambda stored: None
      run = start('last')
      assert run.finish() == [0, 0], run.text(0, 'err') + run.text(1, 'err')
      assert 'resumes from step' in run.text(0, 'out')
      store.inject(object_store.FAULTS, every=7)
      _check_cache(
        process_runs.Run(
          forks,
          tmp_path,
          'cache',
          2,
          *(
            '--mode=cache',
            f'--config.teacher.init=workdir:{url}',
            f'--config.cache.folder={scheme}://bucket/cache',
            '--config.cache.shard_rows=4',
            '--config.cache.verify=4',
            *_CHANGES,
          ),
        ),
        store,
      )
    finally:
      forks.close()
    names = store.names('bucket')
    assert 'runs/killed/lease.json' not in names
    store.copy_to('bucket', 'runs/killed', f'{tmp_path}/copied')
    mentions = [n for n in names if b'kd-bucket-' in store.read('bucket', n)]
    assert not mentions
  copied = f'{tmp_path}/copied'
  got, wanted = _arrays(copied), _arrays(expected.workdir)
  assert got.keys() == wanted.keys() and len(got) > 50
  for name, value in wanted.items():
    np.testing.assert_array_equal(got[name], value, err_msg=name)
  assert command.metrics(copied) == command.metrics(expected.workdir)
  steps = os.listdir(f'{tmp_path}/copied/checkpoints')
  assert sorted(steps) == sorted(os.listdir(f'{expected.workdir}/checkpoints'))


def _check_cache(run, store):
  """Checks a cache of a run's student that two processes have written."""
  assert run.finish() == [0, 0], run.text(0, 'err') + run.text(1, 'err')
  manifest = json.loads(store.read('bucket', 'cache/manifest.json'))
  assert len(manifest['shards']) > 2
  for facts in manifest['shards']:
    data = store.read('bucket', f'cache/{facts["file"]}')
    assert hashlib.sha256(data).hexdigest() == facts['sha256']
  # The objects that only an incomplete cache needs are removed.
  names = [n for n in store.names('bucket') if n.startswith('cache/targets-')]
  assert len(names) == len(manifest['shards'])


def _arrays(workdir):
  """Returns the arrays of the last checkpoint, independent of its devices."""
  found, reader = {}, ocp.PyTreeCheckpointer()
  for item in ('params', 'optimizer'):
    path = f'{workdir}/checkpoints/{_STEPS}/{item}'
    tree = reader.metadata(path).item_metadata.tree
    arguments = jax.tree.map(
      lambda unused: ocp.RestoreArgs(restore_type=np.ndarray), tree
    )
    tree = reader.restore(
      path, args=ocp.args.PyTreeRestore(restore_args=arguments)
    )
    leaves = ocp.tree.to_flat_dict(tree, sep='/')
    found.update({f'{item}/{k}': np.asarray(v) for k, v in leaves.items()})
  return found


def _kill_at(store, run, chance, has_checkpoint):
  """Kills a run at one of its next uploads, before or after it is stored.

  Args:
    store: the store.
    run: the run.
    chance: random generator that chooses the upload.
    has_checkpoint: whether to count uploads only once there is a checkpoint.
  """
  left, when_stored = chance.randint(1, _MOST_UPLOADS), chance.random() < 0.5
  print(f'kill at upload {left}, stored: {when_stored}')

  def watch(stored):
    nonlocal left
    if has_checkpoint and not any(map(_COMMIT.search, store.writes)):
      return
    if stored == when_stored:
      left -= 1
      if left == 0:
        for process in run.processes:
          process.kill()

  store.watch = watch
