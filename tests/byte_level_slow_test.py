"""Tests a small Qwen3 with its tokenizer and chat template in every mode."""

import dataclasses
import io
import json
import shutil
import sys

import jax
import pytest

from kd.checkpoints import huggingface
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_byte_level
from kd.models import families
from kd.modes import chat as chat_mode
from kd.modes import check as check_mode
from kd.modes import export as export_mode
from kd.modes import generate as generate_mode
from kd.modes import train as train_mode
from tests import cache_runs
from tests import command

_SIZE = trained_byte_level.VOCABULARY + 8
_ROWS = _SIZE + 24  # The embedding is padded like Qwen3's.


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with `teacher`: a random Qwen3 with its tokenizer and config."""
  folder = tmp_path_factory.mktemp('byte_level')
  config = dataclasses.replace(
    families.variant('qwen3_tiny', 'variant'), vocab_size=_ROWS, num_layers=2
  )
  model = families.build(config, 'float32', 'none', 'teacher')
  params = jax.jit(model.init_params)(jax.random.key(1))
  huggingface.write(
    *(str(folder / 'teacher'), jax.device_get(params), config, 'float32'),
    *(None, [_SIZE - 6, _SIZE - 8], _SIZE - 8),
    trained_byte_level.write,
  )
  with command.compiled_once():
    yield folder


def _changes(folder):
  return {
    'steps': 2,
    'data.length': 160,
    'data.template': 'qwen3_no_thinking',
    'teacher.init': f'hf:{folder}/teacher',
    'student.init': 'teacher',
    'student.variant': '',
    'student.keep_layers': (0, 1),
  }


@pytest.fixture(scope='module')
def trained(folder):
  config = cache_runs.config(folder, folder / 'cache', **_changes(folder))
  train_mode.main(config, str(folder / 'run'))
  return config, folder / 'run'


def _losses(workdir):
  lines = command.metrics(str(workdir))
  return [x['train/loss/kl'] for x in lines if x['phase'] == 'train']


def test_runs_keep_the_tokenizer_files_and_initialize_others(folder, trained):
  config, workdir = trained
  assert len(_losses(workdir)) == 2
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    given = (folder / 'teacher' / name).read_bytes()
    assert (workdir / name).read_bytes() == given
  assert not (workdir / 'tokenizer.model').exists()
  again = config.copy_and_resolve_references()
  again.student.init, again.student.keep_layers = f'workdir:{workdir}', ()
  check_mode.main(again, str(folder / 'other'))
  again.student.init = 'random'
  again.student.variant = 'nano'
  with cache_runs.refused('rows, the tokenizer', 'no row for'):
    check_mode.main(again, str(folder / 'other'))


def test_caches_keep_the_tokenizer_files(folder, trained):
  cache = folder / 'cache'
  cache_runs.write(folder, cache, **_changes(folder))
  moved = folder / 'moved'
  shutil.move(folder / 'teacher', moved)
  try:
    changes = _changes(folder) | {
      'student.init': f'workdir:{trained[1]}',
      'student.keep_layers': (),
    }
    config = cache_runs.cached(folder, cache, **changes)
    train_mode.main(config, str(folder / 'from_cache'))
  finally:
    shutil.move(moved, folder / 'teacher')
  assert len(_losses(folder / 'from_cache')) == 2


def test_export_generate_and_chat(folder, trained, monkeypatch, capsys):
  config, workdir = trained
  export_mode.main(config, str(workdir))
  exported = workdir / 'export' / 'hf'
  files = {file.name: file.read_bytes() for file in exported.iterdir()}
  given = (folder / 'teacher' / 'tokenizer.json').read_bytes()
  assert files['tokenizer.json'] == given
  assert b'<think>' in files['chat_template.jinja']
  values = json.loads(files['config.json'])
  assert values['bos_token_id'] is None
  ends = [trained_byte_level.VOCABULARY, trained_byte_level.VOCABULARY + 2]
  assert values['eos_token_id'] == ends
  digests = {
    tokenizers.load(f'hf:{x}').digest for x in (exported, folder / 'teacher')
  }
  assert len(digests) == 1
  prompts = folder / 'prompts.jsonl'
  prompts.write_text('{"prompt": "2+2=?"}\n')
  config = config.copy_and_resolve_references()
  config.generate.update(prompts=str(prompts), max_new_tokens=8)
  generate_mode.main(config, str(workdir))
  messages = io.TextIOWrapper(io.BytesIO(b'Hi\n\nAnd you?\n'))
  monkeypatch.setattr(sys, 'stdin', messages)
  chat_mode.main(config, str(workdir))
  assert "template 'qwen3_no_thinking'" in capsys.readouterr().err
