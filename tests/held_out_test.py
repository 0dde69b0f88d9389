"""Tests that held-out sets are the splits named in the config."""

import json

import jax
import pytest

from kd.config import base
from kd.config import command_line
from kd.core import errors
from kd.input_pipeline import lookup
from kd.modes import train as train_mode
from kd.run import resolve
from tests import cache_runs


def _write(path, first, count):
  path.write_text(
    ''.join(
      json.dumps({'question': f'{i}+1?', 'answer': f'#### {i + 1}'}) + '\n'
      for i in range(first, first + count)
    )
  )


def _run(folder, split):
  sets = {'gsm8k': base.evaluation_set(split=split, examples=-1)}
  return resolve.resolve(
    cache_runs.config(
      folder,
      '',
      **{
        'data.mixture': 'gsm8k_answer',
        'data.examples': -1,
        'evaluation.sets': sets,
      },
    ),
    jax.devices(),
  )


def test_gsm8k_is_evaluated_on_its_test_file(tmp_path, monkeypatch):
  folder = tmp_path / 'files' / 'gsm8k'
  folder.mkdir(parents=True)
  _write(folder / 'train.jsonl', 100, 90)
  _write(folder / 'test.jsonl', 500, 7)
  monkeypatch.setenv('KD_DATA_DIR', str(tmp_path / 'files'))
  monkeypatch.setenv('HOME', str(tmp_path))
  lines = []
  data = train_mode.prepare(_run(tmp_path, 'test'), lines.append)
  ((part,),) = (held_out.prepared for held_out in data.held_out)
  questions = [e['inputs'] for e in part.examples()]
  assert len(questions) == 7
  for i, question in enumerate(questions, 500):
    assert f'{i}+1?' in question
  assert 'gsm8k: gsm8k_answer: 7 rows' in '\n'.join(lines)
  # The run trains on neither this set nor the validation split.
  trained = [e['inputs'] for p in data.train for e in p.examples()]
  assert 70 < len(trained) < 90 and not {*trained} & {*questions}
  data = train_mode.prepare(_run(tmp_path, 'validation'), lines.append)
  ((part,),) = (held_out.prepared for held_out in data.held_out)
  assert len(list(part.examples())) + len(trained) == 90
  with pytest.raises(errors.ConfigError) as e:
    lookup.check(_run(tmp_path, 'tset').config, ())
  assert str(e.value).startswith('evaluation.sets.gsm8k.split: ')
  assert "did you mean 'test'?" in str(e.value)


def test_missing_data_is_refused_by_check(monkeypatch):
  monkeypatch.delenv('KD_TRACES', raising=False)
  config = command_line.load('configs/quickstart.py')
  config.data.mixture = 'traces_cot'
  with pytest.raises(errors.ConfigError, match='KD_TRACES: is not set'):
    lookup.check(config, ())
