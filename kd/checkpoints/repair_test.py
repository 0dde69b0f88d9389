"""Tests that any damaged checkpoint is detected and moved, never lost."""

import os
import shutil

import jax.numpy as jnp
import pytest

from kd.checkpoints import digests
from kd.checkpoints import manager
from kd.checkpoints import repair
from kd.core import errors
from kd.core import layout


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Checkpoints 1 and 2."""
  folder = tmp_path_factory.mktemp('saved')
  saving = manager.Manager(str(folder), 2)
  for step in (1, 2):
    items = {'params': {'w': jnp.arange(64.0) * step}}
    items['optimizer'] = {'n': jnp.zeros(3)}
    saving.save(step, items, {'rows': 'x'}, 1.0 / step)
  saving.close()
  return folder / manager.FOLDER


@pytest.fixture
def copied(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / manager.FOLDER)


def _files(folder):
  return sorted(
    os.path.relpath(os.path.join(parent, name), folder)
    for parent, _, names in os.walk(folder)
    for name in names
  )


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0x80
  path.write_bytes(bytes(content))


def _cut(path):
  path.write_bytes(path.read_bytes()[:-1])


def _remove(path):
  path.unlink()


# Orbax writes these after the digests, or they may come later; a checkpoint
# without them is whole.
_MAY_MISS = {'commit_success.txt', digests.TIMES}


@pytest.mark.parametrize('damage', [_flip, _cut, _remove])
def test_damage_to_any_file_is_detected_and_named(damage, saved, tmp_path):
  names = _files(saved / '2')
  assert len(names) > 12
  for i, name in enumerate(names):
    if name in _MAY_MISS or name.startswith('metrics/'):
      continue
    folder = tmp_path / str(i) / manager.FOLDER
    shutil.copytree(saved, folder)
    damage(folder / '2' / name)
    (line,) = repair.repair(str(folder))
    assert 'checkpoint 2 is damaged' in line and name in line, line
    assert sorted(os.listdir(folder)) == ['1']
    assert _files(folder.parent / layout.DAMAGED_CHECKPOINTS / '2.0')
    assert not repair.repair(str(folder))


def test_copies_named_after_another_step_are_put_aside(copied):
  shutil.copytree(copied / '1', copied / '30')
  (line,) = repair.repair(str(copied))
  assert 'checkpoint 30' in line and 'step 1' in line
  assert manager.latest_step(str(copied.parent)) == 2


@pytest.mark.parametrize(
  'name, text',
  [
    (digests.FIGURE, '{"quality": 0.\0'),
    (digests.FIGURE, '{"quality": []}'),
    (digests.FIGURE, '{"quantity": 1.0}'),
    (digests.FIGURE, '[' * 100_000),
    (digests.FIGURE, None),
    (digests.TIMES, '{"init_timestamp_nsecs": 0.\0'),
    (digests.TIMES, '[' * 100_000),
    (digests.TIMES, None),
  ],
)
@pytest.mark.parametrize('step', ['1', '2'])
def test_unlistable_checkpoints_are_put_aside(step, name, text, copied):
  file = copied / step / name
  if text is None:
    file.unlink()
    file.mkdir()
  else:
    file.write_text(text)
  if name == digests.FIGURE:
    with pytest.raises(errors.ConfigError, match=f'{step}/{name}: cannot be'):
      manager.best_step(str(copied.parent))
  (line,) = repair.repair(str(copied))
  assert f'checkpoint {step} is damaged' in line and name in line, line
  reading = manager.Manager(str(copied.parent), 2)
  assert reading.latest_step() == {'1': 2, '2': 1}[step]


def test_a_folder_in_place_of_a_quality_metric_is_refused(copied):
  (copied / '1' / digests.FIGURE).unlink()
  (copied / '1' / digests.FIGURE).mkdir()
  with pytest.raises(errors.ConfigError, match=f'{copied}: cannot be read'):
    manager.Manager(str(copied.parent), 2, read_only=True)


def test_without_a_good_checkpoint_nothing_is_moved(copied):
  for step in ('1', '2'):
    # Like a lost loader state: the run must not silently start anew.
    shutil.rmtree(copied / step / 'position')
  for _ in range(2):
    with pytest.raises(errors.ConfigError) as e:
      repair.repair(str(copied))
    assert str(e.value).count('position/') == 2 and str(copied) in str(e.value)
  assert sorted(os.listdir(copied)) == ['1', '2']


def test_a_missing_folder_needs_no_repair(tmp_path):
  assert repair.repair(str(tmp_path / manager.FOLDER)) == []


def test_readers_refuse_damaged_checkpoints(copied):
  name = next(n for n in _files(copied / '2') if n.startswith('params/d/'))
  _flip(copied / '2' / name)
  reading = manager.Manager(str(copied.parent), 2, read_only=True)
  reading.check_whole(2, ('optimizer', 'position'), 'student.init')
  with pytest.raises(errors.ConfigError, match='^student.init: .*' + name):
    reading.check_whole(2, ('params',), 'student.init')


def test_metrics_added_later_rank_and_keep_the_digests(copied):
  manager.Manager(str(copied.parent), 2).set_quality(1, 0.25)
  again = manager.Manager(str(copied.parent), 2)
  assert again.best_step() == 1
  assert not digests.problem(str(copied / '1'))
