"""Tests a teacher with byte tokens and a student with groups of digits."""

import os
import shutil

import jax
import pytest

from experiments.other_tokenizer import train_tokenizer
from kd.config import base
from kd.configs import quickstart
from kd.core import errors
from kd.modes import train as train_mode
from kd.run import resolve
from tests import alternating
from tests import command

_STEPS = 4
_SHARED = {'teacher.tokenizer': 'shared', 'data.tokenizer': 'bytes'}


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  file = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.model'
  file.write_bytes(train_tokenizer.train())
  return f'model:{file}'


def _config(folder, tokenizer):
  c = quickstart.get_config()
  c.update(steps=_STEPS)
  c.teacher.update(tokenizer='own', length=112)
  c.losses = dict(chunks=base.term('chunk_likelihood'))
  c.data.update(
    mixture='arithmetic_few',
    tokenizer=tokenizer,
    examples=16,
    length=64,
    batch_size=4,
    folder=str(folder / 'rows'),
  )
  c.optimizer.lr.warmup_steps = 1
  c.evaluation.update(every=0, baseline=False, batch_size=8)
  c.evaluation.sets = {}
  c.checkpoint.update(every=1, keep=9)
  c.log.update(tensorboard=False, every=1)
  return c


def test_the_loss_falls_and_runs_resume_bit_identically(
  tmp_path, tokenizer, capsys
):
  c, run = _config(tmp_path, tokenizer), str(tmp_path / 'run')
  with command.compiled_once(), alternating.variants():
    c.teacher.length = 32
    with pytest.raises(errors.ConfigError, match='needs .* positions'):
      train_mode.main(c, run)
    c.teacher.length = 112
    train_mode.main(c, run)
    said = capsys.readouterr().out
    where = '0.0% of the targets are outside of all chunks'
    assert f'of 112 positions, {where}' in said
    lines = [x for x in command.metrics(run) if 'train/loss/chunks' in x]
    losses = [x['train/loss/chunks'] for x in lines]
    assert losses[-1] < 0.8 * losses[0]
    assert {x['train/teacher/left_out'] for x in lines} == {0.0}
    resumed = str(tmp_path / 'resumed')
    shutil.copytree(run, resumed)
    for step in (3, 4):
      shutil.rmtree(os.path.join(resumed, 'checkpoints', str(step)))
    train_mode.main(c, resumed)
  command.assert_ended_alike(resumed, run, _STEPS)


def test_distributions_are_compared_at_common_token_starts(
  tmp_path, tokenizer, capsys
):
  c, run = _config(tmp_path, tokenizer), str(tmp_path / 'run')
  c.losses = dict(kl=base.term('forward_kl'), uld=base.term('uld', weight=0.1))
  with command.compiled_once(), alternating.variants():
    train_mode.main(c, run)
  assert 'not at a token boundary of both tokenizers' in capsys.readouterr().out
  lines = [x for x in command.metrics(run) if 'train/loss/kl' in x]
  losses = [x['train/loss/kl'] for x in lines]
  assert losses[-1] < 0.9 * losses[0]
  assert all(0 < x['train/loss/uld'] < 2 for x in lines)
  assert all(0 <= x['train/teacher/left_out'] < 0.5 for x in lines)


@pytest.mark.parametrize(
  ('changes', 'path'),
  [
    (
      {
        'losses': {
          'kl': base.term('forward_kl'),
          'chunks': base.term('chunk_likelihood'),
        }
      },
      'losses.kl.name',
    ),
    ({**_SHARED, 'losses': {'u': base.term('uld')}}, 'teacher.length'),
    (
      {**_SHARED, 'teacher.length': 0, 'losses': {'u': base.term('uld')}},
      'losses.u.name',
    ),
    ({'losses': {'h': base.term('hidden_states')}}, 'losses.h.name'),
    ({'objective.positions.rule': 'teacher_entropy'}, 'objective.positions'),
    ({**_SHARED, 'teacher.length': 0}, 'losses.chunks'),
    (_SHARED, 'teacher.length'),
    ({'teacher.tokenizer': 'shared'}, 'teacher.init'),
    ({'teacher.source': 'cached'}, 'teacher.source'),
    ({'student.init': 'teacher', 'student.variant': ''}, 'student.init'),
    ({'teacher.length': 10**6}, 'teacher.length'),
    ({'teacher.template': 'gemma'}, 'teacher.template'),
    (
      {
        'evaluation.sets': {'a': base.evaluation_set(answers=0)},
        'evaluation.best.metric': 'kl',
      },
      'evaluation.best.metric',
    ),
  ],
)
def test_incompatible_settings_are_refused(tmp_path, tokenizer, changes, path):
  c = _config(tmp_path, tokenizer)
  with c.unlocked():
    for name, value in changes.items():
      if isinstance(value, dict):
        section, _, last = name.rpartition('.')
        (c[section] if section else c)[last] = value
      else:
        c.update_from_flattened_dict({name: value})
  with pytest.raises(errors.ConfigError) as e:
    resolve.resolve(c, jax.devices())
  assert e.value.path.startswith(path), e.value
