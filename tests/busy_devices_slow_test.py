"""Eight CPU devices on a busy machine: collectives that wait hold threads."""

import os
import subprocess
import sys

from tests import command

_SMALL = (
  *command.QUICK,
  '--config.steps=2',
  '--config.optimizer.lr.warmup_steps=1',
  '--config.data.batch_size=8',
  '--config.evaluation.baseline=False',
  '--config.evaluation.every=0',
  '--config.evaluation.sets={}',
)


def test_a_mesh_of_two_axes_trains_while_others_use_the_processors(tmp_path):
  """With PJRT_NPROC=8, XLA's own number of threads, it aborted in 3 of 3."""
  flags = '--xla_force_host_platform_device_count=8'
  spin = [sys.executable, '-c', 'while True: pass']
  others = [subprocess.Popen(spin) for _ in range(os.cpu_count())]
  try:
    done = subprocess.run(
      [
        *(sys.executable, '-m', 'kd', *_SMALL),
        *('--config.mesh.fsdp=4', '--config.mesh.tensor=2'),
        f'--config.data.folder={tmp_path}/rows',
        f'--workdir={tmp_path}/run',
      ],
      env=command.environment() | {'XLA_FLAGS': flags},
      capture_output=True,
      text=True,
    )
  finally:
    for other in others:
      other.kill()
      other.wait()
  assert done.returncode == 0, done.stderr[-2000:]
  (line,) = command.metrics(f'{tmp_path}/run')
  assert line['step'] == 2 and line['train/nonfinite'] == 0
