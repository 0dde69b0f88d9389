"""Tests the average of parameters: saved, evaluated, loaded and resumed."""

import json
import os
import shutil

import numpy as np

from kd.config import base
from kd.configs import quickstart
from kd.modes import eval as eval_mode
from kd.modes import train as train_mode
from tests import alternating
from tests import command

_DECAY, _STEPS = 0.25, 4


def _config(folder):
  c = quickstart.get_config()
  c.update(steps=_STEPS)
  c.teacher.update(source='none', init='')
  c.losses = dict(ce=base.term('cross_entropy'))
  c.data.update(
    mixture='arithmetic_few',
    tokenizer='bytes',
    examples=16,
    length=64,
    batch_size=4,
    folder=str(folder / 'rows'),
  )
  c.optimizer.lr.warmup_steps = 1
  c.optimizer.groups = dict(a=base.parameter_group('embedding', frozen=True))
  c.ema.decay = _DECAY
  c.evaluation.update(every=0, baseline=False, batch_size=8, params='ema')
  c.evaluation.sets.held_out.update(examples=8, answers=0)
  c.checkpoint.update(every=1, keep=9)
  c.log.tensorboard = False
  return c


def _average(run, path):
  """Returns the average of a parameter by definition, and its last value."""
  first = command.saved(run, 1)
  values = [command.saved(run, k)[f'params/{path}'] for k in (1, 2, 3, 4)]
  # The first average contains the parameters before the first update.
  decays = [min(_DECAY, (1 + t) / (10 + t)) for t in (1, 2, 3, 4)]
  expected = np.float64(first[f'ema/{path}'])
  for decay, value in list(zip(decays, values, strict=True))[1:]:
    expected = decay * expected + (1 - decay) * value
  return expected, values[-1]


def _nll(path):
  with open(path, encoding='utf-8') as f:
    return json.load(f)['metrics']['eval/held_out/nll']


def test_averages_are_kept_evaluated_read_and_resumed(tmp_path):
  c, run = _config(tmp_path), str(tmp_path / 'run')
  with command.compiled_once(), alternating.variants():
    train_mode.main(c, run)
    path = 'pattern/layer_0/mlp/gate'
    expected, last = _average(run, path)
    average = command.saved(run, _STEPS)[f'ema/{path}']
    np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)
    assert np.abs(average - last).max() > 1e-4
    assert not any(
      'embedding' in key for key in command.saved(run, 1) if 'ema/' in key
    )
    for name in ('ema', 'last'):
      c.export.params = name
      eval_mode.main(c, run)
    folder = os.path.join(run, 'evaluations')
    averaged = _nll(os.path.join(folder, 'eval_last_ema.json'))
    assert averaged == _nll(os.path.join(folder, f'step_{_STEPS}.json'))
    assert averaged != _nll(os.path.join(folder, 'eval_last.json'))
    resumed = str(tmp_path / 'resumed')
    shutil.copytree(run, resumed)
    for step in (3, 4):
      shutil.rmtree(os.path.join(resumed, 'checkpoints', str(step)))
    train_mode.main(c, resumed)
    whole, again = (command.saved(x, _STEPS) for x in (run, resumed))
    assert whole.keys() == again.keys()
    for key, value in whole.items():
      np.testing.assert_array_equal(value, again[key], err_msg=key)
