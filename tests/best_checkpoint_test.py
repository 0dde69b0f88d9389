"""Tests that evaluation.best selects the kept checkpoint, end to end."""

from kd.checkpoints import manager
from kd.config import base
from kd.configs import quickstart
from kd.modes import train as train_mode
from tests import alternating
from tests import command


def test_the_chosen_direction_ranks_checkpoints(tmp_path):
  c = quickstart.get_config()
  c.update(steps=3)
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
  c.optimizer.lr.warmup_steps = 1
  c.evaluation.update(every=1, baseline=False, batch_size=8)
  c.evaluation.sets.held_out.update(examples=8, answers=0)
  c.evaluation.best.update(metric='nll', direction='max')
  c.checkpoint.update(every=1, keep=1)
  c.log.tensorboard = False
  with command.compiled_once(), alternating.variants():
    train_mode.main(c, str(tmp_path / 'run'))
  nll = {
    line['step']: line['eval/held_out/nll']
    for line in command.metrics(str(tmp_path / 'run'))
    if line['phase'] == 'eval' and line['step']  # Step 0 has no checkpoint.
  }
  assert len(nll) == 3 and len(set(nll.values())) == 3
  assert manager.best_step(str(tmp_path / 'run')) == max(nll, key=nll.get)
