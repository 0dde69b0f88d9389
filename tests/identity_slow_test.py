"""Tests which changes of config and inputs a workdir allows or refuses."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors import numpy as safetensors

from kd.config import command_line
from kd.core import errors
from kd.modes import train as train_mode
from tests import alternating
from tests import command


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('identity')
  alternating.teacher(str(folder))
  (folder / 'alternating_teacher').rename(folder / 'teacher')
  with command.compiled_once(), alternating.variants():
    yield folder


def _train(folder, workdir, *overrides):
  """Trains six steps in this process; `overrides` are 'field=value'."""
  config = command_line.load('configs/quickstart.py', '--config')
  quick = [a.removeprefix('--config.') for a in command.QUICK[1:]]
  own = [
    f'data.folder={folder / "rows"}',
    f'teacher.init=hf:{folder / "teacher"}',
    'evaluation.baseline=False',
  ]
  for override in (*quick, *own, *overrides):
    field, _, value = override.partition('=')
    kind = type(_at(config, field))
    config.update_from_flattened_dict(
      {field: value == 'True' if kind is bool else kind(value)}
    )
  train_mode.main(config, str(workdir))


def _at(config, field):
  for key in field.split('.'):
    config = config[key]
  return config


def _json(path):
  return json.loads(pathlib.Path(path).read_text())


def _files(workdir):
  return {
    str(p.relative_to(workdir)): p.read_bytes()
    for p in workdir.rglob('*')
    if p.is_file()
  }


@pytest.fixture(scope='module')
def trained(folder):
  _train(folder, folder / 'trained')
  return folder / 'trained'


@pytest.fixture
def stopped(trained, tmp_path):
  """The workdir of a run that was killed after step 4."""
  workdir = tmp_path / 'run'
  shutil.copytree(trained, workdir)
  shutil.rmtree(workdir / 'checkpoints' / '6')
  for name in ('report.md', 'evaluations/step_6.json'):
    (workdir / name).unlink()
  return workdir


def _other_teacher(folder):
  """Reorders the rows of a teacher's embedding."""
  file = folder / 'model.safetensors'
  tensors = safetensors.load_file(file)
  rows = tensors['model.embed_tokens.weight']
  tensors['model.embed_tokens.weight'] = rows[::-1].copy()
  safetensors.save_file(tensors, file, {'format': 'pt'})


def test_another_teacher_under_the_same_path_is_refused(
  folder, stopped, tmp_path
):
  teacher = tmp_path / 'teacher'
  shutil.copytree(folder / 'teacher', teacher)
  # Another path with the same weights is the same run.
  before = _files(stopped)
  _other_teacher(teacher)
  with pytest.raises(errors.ConfigError) as caught:
    _train(folder, stopped, f'teacher.init=hf:{teacher}')
  recorded = _json(stopped / 'run.json')['inputs']['teacher.init']
  assert caught.value.exit_code == 2
  assert f"teacher.init: recorded '{recorded}', now '" in str(caught.value)
  assert _files(stopped) == before


def test_paths_steps_and_cadence_may_change(folder, stopped, tmp_path, capsys):
  teacher = tmp_path / 'moved'
  shutil.copytree(folder / 'teacher', teacher)
  _train(
    folder,
    stopped,
    f'teacher.init=hf:{teacher}',
    'steps=8',
    'checkpoint.every=3',
    'checkpoint.keep=3',
    'evaluation.batch_size=4',
    'objective.chunk_tokens=128',
    'optimizer.micro_batches=2',
    'log.every=1',
  )
  assert _json(stopped / 'config.json')['steps'] == 8
  (change,) = _json(stopped / 'run.json')['changes']
  assert change['step'] == 4 and change['date'].startswith('20')
  assert change['fields']['steps'] == [6, 8]
  assert change['fields']['optimizer.micro_batches'] == [1, 2]
  assert change['fields']['teacher.init'][1] == f'hf:{teacher}'
  assert (stopped / 'evaluations' / 'step_8.json').exists()
  assert (stopped / 'report.md').exists()
  out = capsys.readouterr().out
  assert 'changed since the last start: steps: 6 to 8' in out
  assert 'teacher.json: evaluation of 20' in out and 'reused' in out
  with pytest.raises(errors.ConfigError, match='steps: found 7.*step 8'):
    _train(folder, stopped, 'steps=7')


def test_extended_runs_equal_runs_of_that_length(folder, stopped, tmp_path):
  """A constant learning rate does not depend on the number of steps."""
  same = (
    *('optimizer.lr.final=5e-3', 'optimizer.lr.warmup_steps=0'),
    *('evaluation.every=2', 'log.every=2'),
  )
  whole, extended = tmp_path / 'whole', tmp_path / 'extended'
  _train(folder, whole, *same)
  _train(folder, extended, *same, 'steps=4')
  _train(folder, extended, *same)
  command.assert_ended_alike(str(extended), str(whole), 6)


def test_evaluations_of_another_model_are_measured_again(folder, stopped):
  good = _json(stopped / 'evaluations' / 'teacher.json')
  nan = json.loads(json.dumps(good))
  nan['identity']['model']['weights'] = '0' * 16
  nan['metrics'] = dict.fromkeys(nan['metrics'], float('nan'))
  (stopped / 'evaluations' / 'teacher.json').write_text(json.dumps(nan))
  shared = list((folder / 'rows' / 'evaluations').iterdir())
  assert shared
  _train(folder, stopped)
  again = _json(stopped / 'evaluations' / 'teacher.json')
  assert again['metrics'] == good['metrics']
  assert again['identity'] == good['identity']
  assert np.isfinite(list(again['metrics'].values())).all()


def test_other_held_out_examples_are_refused(folder, stopped):
  run = _json(stopped / 'run.json')
  run['inputs']['evaluation.sets.held_out'] = '0' * 16
  (stopped / 'run.json').write_text(json.dumps(run))
  with pytest.raises(errors.ConfigError, match='held_out: recorded .0000'):
    _train(folder, stopped)
