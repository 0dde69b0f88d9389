"""Tests that evaluation.stop ends a run: files, exit code, resumption."""

import json
import os

from kd.config import base
from kd.configs import quickstart
from kd.modes import train as train_mode
from tests import alternating
from tests import command

_NLL = 'eval/held_out/nll'


def test_runs_without_improvement_end(tmp_path, capsys):
  c, workdir = quickstart.get_config(), str(tmp_path / 'run')
  c.update(steps=9)
  c.teacher.update(source='none', init='')
  c.losses = dict(ce=base.term('cross_entropy'))
  c.data.update(
    mixture='arithmetic_few',
    tokenizer='bytes',
    examples=16,
    length=64,
    batch_size=4,
    folder=str(tmp_path / 'rows'),
  )
  # With a learning rate of 0 no evaluation improves.
  c.optimizer.lr = base.schedule('constant', peak=0.0, warmup_steps=0)
  c.evaluation.update(every=1, baseline=False, batch_size=8)
  c.evaluation.sets.held_out.update(examples=8, answers=0)
  c.evaluation.stop.patience = 2
  c.checkpoint.update(every=5, keep=1)
  c.log.update(every=5, tensorboard=False)

  def run():
    with command.compiled_once(), alternating.variants():
      train_mode.main(c, workdir)
    lines = command.metrics(workdir)
    steps = {
      p: [x['step'] for x in lines if x['phase'] == p]
      for p in ('train', 'eval')
    }
    return capsys.readouterr().out, steps

  out, steps = run()
  reason = f'{_NLL} has not improved in 2 evaluations: its best value was '
  assert f'student: ended after step 2: {reason}' in out
  assert steps == {'train': [2], 'eval': [0, 1, 2]}
  with open(os.path.join(workdir, 'run.json'), encoding='utf-8') as f:
    end = json.load(f)['ends']['student']
  assert end['step'] == 2 and end['reason'].startswith(reason)
  with open(os.path.join(workdir, 'report.md'), encoding='utf-8') as f:
    assert f'The student ended after step 2: {reason}' in f.read()
  out, steps = run()
  assert 'student: ended after step 2' in out and 'report:' in out
  assert steps['train'] == [2]
  c.evaluation.stop.patience = 3
  out, steps = run()
  assert 'student: ended after step 3' in out
  assert steps == {'train': [2, 3], 'eval': [0, 1, 2, 3]}
