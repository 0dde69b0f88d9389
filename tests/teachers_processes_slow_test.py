"""Several teachers on two processes of four devices each."""

import json
import shutil

from tests import alternating
from tests import command
from tests import process_runs

_CONFIG = """
from kd.config import base
from kd.configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.teacher.field = 'digits'
  c.teacher.others = dict(
    tens=base.other_teacher(dtype='float32', field_values=('1',), weight=3.0)
  )
  c.losses.hidden = base.term(
    'hidden_states', map='adaptive', pairs=2, remap_every=2
  )
  return c
"""


def test_weights_on_the_hosts_change_no_bit_nor_does_resuming(tmp_path):
  """One teacher has all rows and adaptive layers, the other some rows."""
  (tmp_path / 'config.py').write_text(_CONFIG)
  with open(tmp_path / 'data.jsonl', 'w') as f:
    for i in range(5, 20):
      for j in range(8):
        line = {'prompt': f'{i}+{j}=', 'completion': str(i + j)}
        f.write(json.dumps(line | {'digits': i // 10}) + '\n')
  with process_runs.starting(tmp_path) as start:
    init = alternating.teacher(tmp_path).partition('=')[2]

    def run(name, memory):
      changes = (
        f'--config.data.mixture={tmp_path}/data.jsonl',
        '--config.data.held_out=0.3',
        f'--config.teacher.others.tens.init={init}',
        f'--config.teacher.memory={memory}',
        f'--config.teacher.others.tens.memory={memory}',
        '--config.mesh.fsdp=8',
      )
      file = f'{tmp_path}/config.py'
      started = start(name, 2, *changes, devices=4, config=file)
      assert started.finish() == [0, 0], started.text(0, 'err')
      return started

    near, far = run('near', 'device'), run('far', 'host')
    whole = command.metrics(far.workdir)
    assert whole == command.metrics(near.workdir)
    trained = [x for x in whole if x['phase'] == 'train']
    shares = [x['train/teacher_share/tens'] for x in trained]
    assert len(trained) == 6 and 0.3 < max(shares) < 0.75
    assert 'train/loss/kl/tens' in trained[-1]
    # Maps are chosen before steps 1, 3 and 5: those of step 5 are saved.
    shutil.rmtree(f'{far.workdir}/checkpoints/6')
    again = run('far', 'host')
    assert 'resumes from step 4' in again.text(0, 'out')
    assert command.metrics(far.workdir) == whole
