"""Tests teachers that split the examples: live, cached, evaluated, refused."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from kd.config import base
from kd.input_pipeline import rows as rows_lib
from kd.losses import eval_sums
from kd.partitioning import placement
from kd.partitioning import rules
from kd.run import resolve
from kd.run import routed_teachers
from kd.run import source
from kd.teachers import live
from kd.train import training_rows
from kd.train.feeds import live as live_feed
from tests import cache_runs

_TEACHER = 'data/fixtures/quickstart_teacher'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two files of problems, and a teacher that differs from the quickstart's."""
  made = tmp_path_factory.mktemp('routed')
  for name, sign in (('plus', '+'), ('minus', '-')):
    lines = [
      {'prompt': f'{i}{sign}{i % 3}=', 'completion': str(i), 'digits': i // 10}
      for i in range(6, 14)
    ]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (made / f'{name}.jsonl').write_text(text)
  other = made / 'other'
  other.mkdir()
  for file in ('config.json', 'tokenizer.model', 'tokenizer_config.json'):
    shutil.copy(f'{_TEACHER}/{file}', other)
  weights = safetensors_numpy.load_file(f'{_TEACHER}/model.safetensors')
  rng = np.random.default_rng(0)
  spoiled = {
    k: (x + 0.05 * rng.standard_normal(x.shape)).astype(x.dtype)
    for k, x in weights.items()
  }
  safetensors_numpy.save_file(spoiled, other / 'model.safetensors')
  return made


def _changes(folder, **more):
  return {
    'data.mixture': (f'{folder}/plus.jsonl', f'{folder}/minus.jsonl'),
    'data.examples': -1,
    **more,
  }


def _routed(folder, **more):
  """Returns config changes that route by file and by number of digits."""
  other = base.other_teacher(
    init=f'hf:{folder}/other', dtype='float32', field_values=('1',)
  )
  return _changes(
    folder,
    **{
      'teacher.tasks': ('plus.jsonl', 'minus.jsonl'),
      'teacher.field_values': ('0',),
      'teacher.field': 'digits',
      'teacher.others': {'other': other},
    },
    **more,
  )


def _opened(folder, changes):
  config = cache_runs.config(folder, folder / 'cache', **changes)
  run = resolve.resolve(config, jax.devices())
  prepared = training_rows.prepare(run, lambda line: None)
  return run, prepared, source.of(run.config).open(run, prepared)


@functools.partial(jax.jit, static_argnums=0)
def _by_row(student, params, targets, batch):
  hidden, _ = student.forward(params, batch, live.NO_TAPS)
  table = student.unembedding(params)
  return eval_sums.by_row(hidden, table, targets, batch, 512)['kl']


def _kl(run, targets, batch):
  """Returns the KL of each row between the teachers and a random student."""
  student = run.student.module
  params = jax.jit(student.init_params)(jax.random.key(3))
  with rules.active(run.mesh):
    return np.asarray(_by_row(student, params, targets, batch))


def _live(run):
  return live_feed.targets_on(run, live_feed.load(run), run.mesh)


def test_routed_targets_equal_each_teachers(folder):
  one = {'data.pack': False}
  run, prepared, router = _opened(folder, _routed(folder, **one))
  said = routed_teachers.lines(run.config)
  assert said[1].endswith('teaches the examples: whose digits is 1')
  rows = rows_lib.Numbered(prepared)(range(16))
  batch = placement.place(router(rows), run.mesh, 16)
  found = _kl(run, _live(run)(batch), batch)
  alone = []
  for init in (f'hf:{_TEACHER}', f'hf:{folder}/other'):
    changes = _changes(folder, **{'teacher.init': init, **one})
    single, same, nothing = _opened(folder, changes)
    assert nothing is None
    batch = rows_lib.Numbered(same)(range(16))
    batch = placement.place(batch, single.mesh, 16)
    alone.append(_kl(single, _live(single)(batch), batch))
  is_long = np.arange(16) % 8 >= 4  # The numbers 10 to 13 in each file.
  assert not np.allclose(*alone, rtol=0.01)
  np.testing.assert_allclose(found, np.where(is_long, *alone[::-1]), 1e-5)


def test_cached_targets_equal_live_ones(folder):
  """This includes packed rows with examples of both teachers."""
  method = base.cache_method('top_k', entries=260, logprobs='float16')
  changes = _routed(folder, **{'cache.method': method})
  cache_runs.write(folder, folder / 'cache', **changes)
  divergences = []
  for kind in ('live', 'cached'):
    run, prepared, opened = _opened(folder, {**changes, 'teacher.source': kind})
    rows, targets = training_rows.read(run, prepared), None
    if kind == 'live':
      targets = _live(run)
    feed = source.of(run.config).feed(run, rows, '', opened, targets)
    fed = feed(0, None, feed.read(0))
    weights = np.asarray(fed.batch.teacher_weights)
    assert (weights.sum(-1) == 1).all() and {0, 1} == set(weights[..., 0].flat)
    divergences.append(_kl(run, fed.targets, fed.batch))
  np.testing.assert_allclose(*divergences, rtol=2e-3)
  other = {**changes, 'teacher.field_values': ('0', '1')}
  with cache_runs.refused('routes'):
    _opened(folder, {**other, 'teacher.source': 'cached'})
