"""Tests that randomly damaged JSON in a workdir is read, or the file named."""

import json

from kd.config import base
from kd.config import command_line
from kd.core import config as config_lib
from kd.evaluation import results
from kd.metrics import writers
from kd.run import model_sizes
from kd.run import workdirs
from tests import damage

_SECONDS = 3
_STUDENT = {
  'family': 'gemma3',
  **dict(embed_dim=64, mlp_dim=160, num_heads=2, num_kv_heads=1, head_dim=32),
  **dict(vocab_size=264, layer_kinds=['local', 'global'], window=32),
  **dict(context=1024, query_scale=32.0, norm_epsilon=1e-6),
  **dict(local_rope_base=1e4, global_rope_base=1e6, global_rope_factor=1.0),
}


def test_a_damaged_workdir(tmp_path):
  folder = tmp_path / 'run'
  folder.mkdir()
  config = base.checked(command_line.load('configs/quickstart.py'))
  (folder / 'config.json').write_text(config_lib.to_json(config))
  run = {
    'student': _STUDENT,
    'inputs': {'teacher.init': 'ab', 'data.tokenizer': 'cd'},
    'changes': [],
  }
  (folder / 'run.json').write_text(json.dumps(run))
  lines = [{'step': step, 'phase': 'train', 'loss': 0.5} for step in range(4)]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text)

  measured = results.Result(
    {'eval/held_out/nll': 1.5},
    {'held_out': {'nll': [1.0, None, 2.0]}},
    [{'id': 'a', 'answer': 'b'}],
    {},
  )
  evaluation, identity = folder / 'step_2.json', {'model': {'weights': 'ab'}}
  results.write(str(evaluation), measured, {'identity': identity})

  def read():
    workdirs.check(config, str(folder)).notes()
    workdirs.recorded_config(str(folder))
    workdirs.check_input(str(folder), 'teacher.init', 'ab')
    model_sizes.from_workdir(str(folder), '--workdir')
    writers.JsonLinesWriter(str(folder), 2, True).close()
    recorded = results.read(str(evaluation))
    if recorded is None:
      return True
    return config_lib.difference_lines(
      recorded[0].get('identity', {}), identity
    )

  damage.fuzz('workdir', damage.seed(), folder, read, _SECONDS)
