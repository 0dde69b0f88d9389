"""Tests a run with every kind of term, two teachers and schedules."""

import json
import os
import shutil

import numpy as np
import pytest
import safetensors

from tests import command

_CONFIG = """
from kd.configs import all_terms
from kd.config import base


def get_config():
  c = all_terms.get_config()
  second = base.other_teacher(init=c.teacher.init, dtype='float32', weight=3.0)
  c.teacher.others = dict(second=second)
  return c
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  made = tmp_path_factory.mktemp('terms')
  (made / 'config.py').write_text(_CONFIG)
  return made


def _arguments(folder, name):
  return [
    f'--config={folder}/config.py',
    *command.QUICK[1:],  # All except its config.
    '--config.losses.hidden.remap_every=2',
    '--config.evaluation.every=0',
    '--config.evaluation.sets.held_out.answers=0',
    f'--config.data.folder={folder}/rows',
    f'--workdir={folder}/{name}',
  ]


@pytest.fixture(scope='module')
def straight(folder):
  code, out, err = command.run(
    _arguments(folder, 'straight'), command.ALTERNATING
  )
  assert code == 0, err
  return f'{folder}/straight', out


def test_metrics_of_terms_and_schedules(straight):
  workdir, out = straight
  assert 'teacher (25%)' in out and 'teacher (75%)' in out
  train = [x for x in command.metrics(workdir) if x['phase'] == 'train']
  keys = ('steps', 'answers', 'labels', 'hidden', 'attention', 'relations')
  for line in train:
    assert all(np.isfinite(line[f'train/loss/{key}']) for key in keys)
  last = train[-1]
  # Steps 3, 4 and 5 of a line from 4 to 1 over 100 steps, and from 1 to 0.5.
  np.testing.assert_allclose(last['train/temperature/steps'], 4 - 3 * 0.04)
  np.testing.assert_allclose(last['train/positions/fraction'], 1 - 0.5 * 0.04)
  maps = [last[f'train/layer_map/hidden/{i}'] for i in range(2)]
  assert 0 <= maps[0] < maps[1] <= 5


def test_resumed_and_uninterrupted_runs_end_alike(folder, straight):
  workdir = f'{folder}/resumed'
  shutil.copytree(straight[0], workdir)
  shutil.rmtree(f'{workdir}/checkpoints/6')
  code, out, err = command.run(
    _arguments(folder, 'resumed'), command.ALTERNATING
  )
  assert code == 0 and 'resumes from step' in out, err
  expected, got = (command.saved(w, 6) for w in (straight[0], workdir))
  assert got.keys() == expected.keys()
  # Projections trained with the student and layer maps are saved, too.
  assert any('optimizer/paths/hidden' in key for key in got)
  assert any('optimizer/layer_maps/hidden' in key for key in got)
  for key, value in expected.items():
    np.testing.assert_array_equal(got[key], value, err_msg=key)
  assert command.metrics(workdir) == command.metrics(straight[0])


def test_projections_are_left_out_of_the_export(folder, straight):
  code, _, err = command.run(
    [*_arguments(folder, 'straight'), '--mode=export'], command.ALTERNATING
  )
  assert code == 0, err
  export = os.path.join(straight[0], 'export', 'hf')
  with open(os.path.join(export, 'config.json'), encoding='utf-8') as f:
    layers = json.load(f)['num_hidden_layers']
  file = os.path.join(export, 'model.safetensors')
  with safetensors.safe_open(file, 'numpy') as tensors:
    names = list(tensors.keys())
  # 13 tensors per layer, the embedding and the final norm.
  assert len(names) == 13 * layers + 2
  assert not any('path' in name or 'projection' in name for name in names)
