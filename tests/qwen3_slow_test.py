"""Tests Qwen3 as student and teacher in every mode, with an untied head."""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

from kd.checkpoints import huggingface
from kd.checkpoints import weights
from kd.config import base
from kd.core import paths
from kd.models import families
from kd.modes import check as check_mode
from kd.modes import eval as eval_mode
from kd.modes import export as export_mode
from kd.modes import generate as generate_mode
from kd.modes import train as train_mode
from tests import cache_runs
from tests import command

_FIXTURE = paths.expand('{project}/data/fixtures/quickstart_teacher')
_TOKENIZER = (
  *('tokenizer.model', 'tokenizer.json'),
  *('tokenizer_config.json', 'special_tokens_map.json'),
)


def _teacher(folder):
  """Writes a random Qwen3 with an untied head and the byte tokenizer."""
  config = dataclasses.replace(
    families.variant('qwen3_tiny', 'variant'), tied=False, num_layers=3
  )
  model = families.build(config, 'float32', 'none', 'teacher')
  params = jax.jit(model.init_params)(jax.random.key(1))

  def write_tokenizer(new):
    for name in _TOKENIZER:
      shutil.copy(os.path.join(_FIXTURE, name), new)

  huggingface.write(
    *(str(folder), jax.device_get(params), config, 'float32', 2, [1], 0),
    write_tokenizer,
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('qwen3')
  _teacher(folder / 'teacher')
  with command.compiled_once():
    yield folder


def _changes(folder, **changes):
  return {
    'steps': 3,
    'teacher.init': f'hf:{folder}/teacher',
    'student.variant': 'qwen3_tiny',
    'log.every': 1,
    **changes,
  }


def _train(config, workdir):
  train_mode.main(config, str(workdir))
  lines = command.metrics(str(workdir))
  return [line for line in lines if line['phase'] == 'train']


@pytest.fixture(scope='module')
def trained(folder):
  """The workdir of a student with an untied head and 2 of 3 layers."""
  changes = {
    'student.init': 'teacher',
    'student.variant': '',
    'student.keep_layers': (0, 2),
  }
  config = cache_runs.config(
    folder, folder / 'none', **_changes(folder, **changes)
  )
  return config, folder / 'student', _train(config, folder / 'student')


def test_a_student_with_an_untied_head_trains_and_restores(trained):
  config, workdir, lines = trained
  assert len(lines) == 3
  assert all(np.isfinite(line['train/loss/kl']) for line in lines)
  saved = command.saved(str(workdir), 3)
  heads = [key for key in saved if 'params' in key and 'head' in key]
  assert heads
  with open(workdir / 'run.json', encoding='utf-8') as f:
    student = json.load(f)['student']
  assert student['family'] == 'qwen3' and not student['tied']
  check_mode.main(config, str(workdir))


def test_students_of_another_family_are_trained(folder):
  """The student is a Gemma 3 model with the same tokenizer."""
  config = cache_runs.config(
    folder, folder / 'none', **_changes(folder, **{'student.variant': 'nano'})
  )
  lines = _train(config, folder / 'gemma')
  assert len(lines) == 3
  assert all(np.isfinite(line['train/loss/kl']) for line in lines)


@pytest.mark.parametrize('method', ['hidden', 'top_k'])
def test_caches_contain_its_targets(folder, trained, method):
  """A cache of hidden states contains the head, not the embedding."""
  del trained
  cache = folder / f'cache_{method}'
  kept = {'entries': 256} if method == 'top_k' else {}
  kept = base.cache_method(method, **kept)
  changes = _changes(folder, **{'cache.method': kept})
  cache_runs.write(folder, cache, **changes)
  config = cache_runs.cached(folder, cache, **changes)
  live = cache_runs.config(folder, cache, **_changes(folder))
  ours = _train(config, folder / f'cached_{method}')
  theirs = _train(live, folder / f'live_{method}')
  for one, other in zip(ours, theirs, strict=True):
    assert one['train/loss/kl'] == pytest.approx(
      other['train/loss/kl'], rel=2e-2
    )


def test_the_student_is_evaluated_sampled_and_exported(folder, trained, capsys):
  config, workdir, _ = trained
  prompts = folder / 'prompts.jsonl'
  prompts.write_text('{"prompt": "Q: 1 + 1"}\n')
  config = config.copy_and_resolve_references()
  config.generate.prompts = str(prompts)
  config.generate.max_new_tokens = 4
  generate_mode.main(config, str(workdir))
  eval_mode.main(config, str(workdir))
  export_mode.main(config, str(workdir))
  assert 'warning' not in capsys.readouterr().out
  init = f'hf:{pathlib.Path(workdir) / "export" / "hf"}'
  exported = weights.model_config(init, 'student.init')
  assert (exported.family, exported.num_layers) == ('qwen3', 2)
  model = families.build(exported, 'float32', 'none', 'student')
  params = weights.load(init, model, None, (), 'float32', 'student.init')
  saved = command.saved(str(workdir), 3)
  head = np.asarray(model.unembedding(params))
  match = [np.asarray(x) for key, x in saved.items() if 'head' in key]
  assert any(
    x.shape == head.shape and np.abs(x - head).max() < 1e-2 for x in match
  )
