"""Teachers that divide the examples: live, cached, evaluated, and refused."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from kd.config import base
from kd.evaluation import likelihood
from kd.input_pipeline import rows as rows_lib
from kd.modes import train
from kd.run import resolve
from kd.run import source
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
  """Returns changes of a config: each file and number of digits a teacher."""
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


def _kl(run, targets, prepared, router):
  """Returns the KL of each row from the teachers to the random student."""
  score = likelihood.make(
    run.student.module, targets, ['s', 'a', 'b'], run.mesh, 16, 512, True
  )
  params = run.student.module.init_params(jax.random.key(3))
  batch = rows_lib.Numbered(prepared)(range(16))
  found = score(params, [router(batch) if router else batch])
  return found['kl'], found['row'].astype(int)


def test_routed_targets_are_those_of_each_teacher_alone(folder):
  run, prepared, router = _opened(
    folder, _routed(folder, **{'data.pack': False})
  )
  targets = live_feed.targets_on(run, live_feed.load(run), run.mesh)
  found, row = _kl(run, targets, prepared, router)
  alone = []
  for init in (f'hf:{_TEACHER}', f'hf:{folder}/other'):
    changes = {'teacher.init': init, 'data.pack': False}
    single, same, nothing = _opened(folder, _changes(folder, **changes))
    assert nothing is None
    targets = live_feed.targets_on(single, live_feed.load(single), single.mesh)
    alone.append(_kl(single, targets, same, None)[0])
  is_long = np.array([i % 8 >= 4 for i in row])  # 10 to 13 in each file
  assert not np.allclose(*alone, rtol=0.01)
  np.testing.assert_allclose(found, np.where(is_long, *alone[::-1]), 1e-5)


def test_a_run_from_a_cache_and_a_live_one_agree(folder):
  """Also with packed rows that hold examples of both teachers."""
  method = base.cache_method('top_k', entries=260, logprobs='float16')
  changes = _routed(folder, **{'cache.method': method, 'steps': 2})
  cache_runs.write(folder, folder / 'cache', **changes)
  losses = []
  for kind in ('live', 'cached'):
    config = cache_runs.config(
      folder, folder / 'cache', **{**changes, 'teacher.source': kind}
    )
    train.main(config, str(folder / kind))
    with open(folder / kind / 'metrics.jsonl', encoding='utf-8') as f:
      lines = [json.loads(line) for line in f]
    losses.append([x for x in lines if x['phase'] == 'train'])
  for live, cached in zip(*losses, strict=True):
    names = [f'train/loss/kl{x}' for x in ('', '/teacher', '/other')]
    near = [[x[n] for n in names] for x in (live, cached)]
    np.testing.assert_allclose(*near, rtol=2e-3)
    shares = [live[f'train/teacher_share/{x}'] for x in ('teacher', 'other')]
    assert sum(shares) == pytest.approx(1) and min(shares) > 0.2
    mean = np.dot(shares, near[0][1:])
    assert live['train/loss/kl'] == pytest.approx(mean, rel=1e-5)
    assert shares == [
      cached[f'train/teacher_share/{x}'] for x in ('teacher', 'other')
    ]
  other = {
    **changes,
    'teacher.field_values': ('0', '1'),
    'teacher.source': 'cached',
  }
  with cache_runs.refused('routes'):
    _opened(folder, other)
