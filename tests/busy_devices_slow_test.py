"""Tests eight CPU devices on a busy machine, where collectives hold threads."""

import os
import subprocess
import sys

from tests import alternating
from tests import command
from tests import warm

_SMALL = (
  *command.QUICK,
  '--config.optimizer.lr.warmup_steps=1',
  '--config.data.batch_size=8',
  '--config.evaluation.baseline=False',
  '--config.evaluation.every=0',
  '--config.evaluation.sets={}',
)


def test_a_mesh_of_two_axes_trains_on_busy_processors(tmp_path):
  """With XLA's default of PJRT_NPROC=8 the run aborted in 3 of 3 trials."""
  spin = [sys.executable, '-c', 'while True: pass']
  forks, others = warm.Warm(command.environment()), []
  start = lambda name: forks.start(
    [
      *_SMALL,
      '--config.steps=2',
      *('--config.mesh.fsdp=4', '--config.mesh.tensor=2'),
      alternating.teacher(str(tmp_path)),
      f'--config.data.folder={tmp_path}/rows',
      f'--workdir={tmp_path}/{name}',
    ],
    command.ALTERNATING,
    command.with_devices(8),
    f'{tmp_path}/{name}.log',
  )
  try:
    # Compile all programs while nothing else runs.
    assert start('quiet').wait(600) == 0
    others += [subprocess.Popen(spin) for _ in range(os.cpu_count())]
    busy = start('run')
    assert busy.wait(600) == 0, busy.text('err')
  finally:
    forks.close()
    for other in others:
      other.kill()
      other.wait()
  (line,) = command.metrics(f'{tmp_path}/run')
  assert line['step'] == 2 and line['train/nonfinite'] == 0
