"""Tests docs/pruning.md's commands, and importance against brute force."""

import filecmp
import json
import os

import jax
import numpy as np
import pytest

from kd import modes
from kd.checkpoints import weights
from kd.core import errors
from kd.evaluation import likelihood
from kd.input_pipeline import rows as rows_lib
from kd.models import families
from kd.modes import prune as prune_mode
from kd.pruning import scores as scores_lib
from kd.pruning import sizes
from kd.run import load_params
from kd.run import resolve_student
from kd.train import training_rows
from tests import command
from tests import page_commands

_STEPS = 2


def _smaller(config, folder):
  """Changes a config so that a run takes seconds but prunes the same."""
  config.steps = _STEPS
  # All configs have the same rate, so that both trainings share a program.
  config.optimizer.lr.update(warmup_steps=1, peak=1e-3, final=1e-5)
  config.data.update(
    examples=200, batch_size=4, length=64, folder=str(folder / 'rows')
  )
  config.evaluation.update(baseline=False, batch_size=16, every=0, sets={})
  config.checkpoint.every, config.log.tensorboard = _STEPS, False
  config.student.prune.calibration_rows = 48
  config.export.dtype = 'float32'
  return config


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder in which the page's commands have run."""
  folder = tmp_path_factory.mktemp('pruning')
  with command.compiled_once():
    for arguments in page_commands.commands('docs/pruning.md'):
      arguments = [x.replace('/tmp/', f'{folder}/') for x in arguments]
      config, flags = page_commands.parse(arguments)
      mode = modes.load(flags.get('mode', 'train'))
      mode(_smaller(config, folder), flags['workdir'])
    yield folder


def _loaded(folder, init, scores):
  """Returns the student of `init`, pruned if there are `scores`."""
  config, _ = page_commands.parse(['--config=configs/pruned.py'])
  config.student.init = init
  if scores:
    config.student.prune.scores = str(scores)
  else:
    config.student.prune.update(dict.fromkeys(sizes.SIZES, 0))
  config = _smaller(config, folder)
  devices = jax.devices()[:1]
  run = resolve_student.resolve_student(config, devices, str(folder))
  return run, load_params.load(run.student, 0, 'student.init', None)


_TEACHER = 'hf:{project}/data/fixtures/quickstart_teacher'


def test_scores_of_other_weights_are_named(folder, caplog):
  file = folder / 'kd-pruned' / 'prune' / 'scores.json'
  caplog.set_level('INFO', 'kd')
  _loaded(folder, _TEACHER, file)
  assert 'other weights' not in caplog.text
  other = folder / 'other.json'
  other.write_text(json.dumps({**json.loads(file.read_text()), 'weights': 'a'}))
  _loaded(folder, _TEACHER, other)
  assert 'measured on other weights than student.init: a' in caplog.text


def test_students_from_scores_and_from_a_folder_are_equal(folder):
  prune = folder / 'kd-pruned' / 'prune'
  names = ['hf', 'plan.json', 'scores.json', 'scores.png']
  assert sorted(os.listdir(prune)) == names
  run, by_scores = _loaded(folder, _TEACHER, prune / 'scores.json')
  again, written = _loaded(folder, f'hf:{prune}/hf', None)
  assert run.student.config == again.student.config
  c = run.student.config
  assert (c.num_layers, c.mlp_dim, c.num_heads, c.embed_dim) == (5, 192, 2, 128)
  jax.tree.map(np.testing.assert_array_equal, by_scores, written)


def test_scores_are_reused_by_default_or_by_path(folder, capsys):
  config, _ = page_commands.parse(['--config=configs/pruned.py'])
  config = _smaller(config, folder)
  first, named = (str(folder / name) for name in ('kd-pruned', 'named'))
  config.student.prune.num_heads = 3
  with pytest.raises(errors.ConfigError, match=r'num_heads: .*legal: 1, 2, 4'):
    prune_mode.main(config, named)
  assert not os.path.exists(named)
  config.student.prune.num_heads = 2
  config.student.prune.scores = f'{first}/prune/scores.json'
  prune_mode.main(config, named)
  weights_of = lambda run: f'{run}/prune/hf/model.safetensors'
  assert filecmp.cmp(weights_of(first), weights_of(named), shallow=False)
  assert not os.path.exists(f'{named}/prune/scores.json')
  config.student.prune.update(dict.fromkeys(sizes.SIZES, 0), scores='')
  prune_mode.main(config, first)
  out = capsys.readouterr().out
  assert 'reusing the scores in' in out and 'to prune, set one of' in out


def test_the_second_round_prunes_the_trained_student(folder):
  first, second = (
    json.loads((folder / name / 'prune' / 'plan.json').read_text())
    for name in ('kd-pruned', 'kd-pruned-student')
  )
  assert second['before'] == first['after']
  assert second['kept']['config']['mlp_dim'] == 128
  run, params = _loaded(folder, f'hf:{folder}/kd-pruned-student/prune/hf', None)
  counted = sum(x.size for x in jax.tree.leaves(params))
  assert counted == second['after']['parameters']
  assert run.student.config.num_layers == 4


def test_importance_ranks_layers_like_brute_force(folder):
  """Brute force is the NLL without each layer; both orders are the same."""
  run, params = _loaded(folder, _TEACHER, None)
  rows = training_rows.prepare(run, lambda line: None)
  batches = list(rows_lib.batches(rows, 16, range(16)))[:3]

  def nll(layers):
    config = run.student.config
    score = likelihood.Scorer(
      families.build(config.keep_layers(layers), 'float32', 'none', ''),
      *(None, ['model'], run.mesh, 16, 4096),
    )
    kept = weights.layers_from(params, config, layers)
    return likelihood.summarize(score(kept, batches))['nll']

  without = [nll([i for i in range(6) if i != left]) for left in range(6)]
  path = str(folder / 'kd-pruned' / 'prune' / 'scores.json')
  importance = scores_lib.read(path, '').layers
  np.testing.assert_array_equal(np.argsort(without), np.argsort(importance))
