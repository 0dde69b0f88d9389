"""Tests saving, keeping, restoring and rejecting training state."""

import itertools
import os
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd.checkpoints import manager
from kd.core import errors


def _optimizer():
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(optax.cosine_decay_schedule(0.1, 10)),
  )


def _items(width=3, layers=2, value=1.0):
  params = {f'layer_{i}': jnp.full((width,), value) for i in range(layers)}
  return {'params': params, 'optimizer': _optimizer().init(params)}


def _save(where, steps, keep=2, quality=None):
  saving = manager.Manager(str(where), keep)
  for step in steps:
    figure = quality[step] if quality else None
    saving.save(step, _items(value=step), {'step': step}, figure)
  saving.wait(steps[-1])
  return saving


def test_restored_states_have_equal_types_and_next_updates(tmp_path):
  items = _items()
  gradient = jax.tree.map(lambda x: x * 0.3, items['params'])
  update = lambda s: _optimizer().update(gradient, s, items['params'])
  _, items['optimizer'] = update(items['optimizer'])
  saving = manager.Manager(str(tmp_path), 1)
  saving.save(7, items, {'rows': 'x', 'window': {'loss': [0.1, 3.0]}}, None)
  saving.close()
  reading = manager.Manager(str(tmp_path), 1)
  like = jax.eval_shape(_items)
  got, position = reading.restore(7, like)
  assert position == {'rows': 'x', 'window': {'loss': [0.1, 3.0]}}
  assert jax.tree.structure(got) == jax.tree.structure(items)
  for a, b in zip(
    jax.tree.leaves(update(got['optimizer'])),
    jax.tree.leaves(update(items['optimizer'])),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def test_keeps_the_latest_and_the_best(tmp_path):
  quality = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 2.5}
  saving = _save(tmp_path, [1, 2, 3, 4, 5], keep=1, quality=quality)
  assert saving.latest_step() == 5 and saving.best_step() == 2
  saving.close()
  kept = {n for n in os.listdir(tmp_path / manager.FOLDER) if n.isdigit()}
  assert kept == {'2', '5'}
  got, _ = manager.Manager(str(tmp_path), 1, read_only=True).restore(
    2, {'params': jax.eval_shape(_items)['params']}
  )
  np.testing.assert_array_equal(got['params']['layer_0'], [2.0, 2.0, 2.0])


def test_without_a_metric_there_is_no_best_checkpoint(tmp_path):
  assert _save(tmp_path, [1, 2]).best_step() is None


@pytest.mark.parametrize(
  'other,words',
  [
    (dict(layers=3), ('layer_2', 'missing')),
    (dict(layers=1), ('layer_1', 'unexpected')),
    (dict(width=4), ('layer_0', '(3,)', '(4,)')),
  ],
)
def test_another_model_is_refused_with_all_differing_leaves(
  other, words, tmp_path
):
  _save(tmp_path, [1]).close()
  reading = manager.Manager(str(tmp_path), 1)
  like = jax.eval_shape(lambda: _items(**other))
  with pytest.raises(errors.ConfigError) as e:
    reading.restore(1, like)
  assert all(word in str(e.value) for word in words), str(e.value)


def test_leftovers_of_a_killed_save_are_cleared_and_its_step_saved(tmp_path):
  folder = tmp_path / manager.FOLDER
  left = folder / '2.orbax-checkpoint-tmp'
  left.mkdir(parents=True)
  (left / 'half').write_text('written')
  saving = _save(tmp_path, [2])
  assert saving.latest_step() == 2
  saving.close()
  assert not left.exists()


@pytest.mark.parametrize(
  'name', ['lr=1e-4,bs=[8]', 'a*b?', 'ünï %20#@+{x}&;~$HOME']
)
def test_checkpoints_in_folders_of_any_name_can_be_read(
  name, tmp_path, monkeypatch
):
  monkeypatch.setenv('HOME', str(tmp_path))
  where = tmp_path / name
  _save(where, [1, 2]).close()
  like = {'params': jax.eval_shape(_items)['params']}
  got, _ = manager.Manager(str(where), 1, read_only=True).restore(2, like)
  np.testing.assert_array_equal(got['params']['layer_0'], [2.0, 2.0, 2.0])
  assert manager.latest_step(str(where)) == 2


def test_a_save_that_cannot_be_read_back_fails(tmp_path, monkeypatch):
  # Orbax merges nothing if its pattern matches no folder.
  monkeypatch.setattr(manager, '_literal', lambda folder, read_only: folder)
  with pytest.raises(errors.KdError, match='saving failed at step 1'):
    _save(tmp_path / '[8]', [1])
  assert manager.latest_step(str(tmp_path / '[8]')) is None


def test_clock_jumps_do_not_fail_a_save(tmp_path, monkeypatch):
  now, hours = time.time, itertools.cycle((0, 1))
  monkeypatch.setattr(time, 'time', lambda: now() + 3600 * next(hours))
  assert _save(tmp_path, [1]).latest_step() == 1


def test_errors_of_saves_name_folder_and_step(tmp_path):
  saving = _save(tmp_path, [1])
  folder = tmp_path / manager.FOLDER
  # Like a lost disk: no folder can be created, even by root.
  folder.rename(tmp_path / 'away')
  folder.write_text('in the way')
  before = threading.enumerate()
  with pytest.raises(errors.KdError) as e:
    saving.save(2, _items(), {}, None)
    saving.wait(2)
  assert 'step 2' in str(e.value) and str(folder) in str(e.value)
  # A thread that waits for the folder would keep the process from ending.
  for thread in set(threading.enumerate()) - set(before):
    thread.join(5)
    assert thread.daemon or not thread.is_alive(), thread
  folder.unlink()
  (tmp_path / 'away').rename(folder)
  assert manager.Manager(str(tmp_path), 1).latest_step() == 1
