"""Configures the runs of experiments/served_270m.

  --config=experiments/served_270m/config.py:TEACHER[,SOURCE]

TEACHER names the teacher's weights. SOURCE is where the teacher's distributions
come from: `live`, the model in the run itself; the URL of a server that has
loaded it; or the folder of a cache.
"""

import ml_collections

from kd.config import base
from kd.configs import gemma3_270m_gsm8k

ENTRIES = 20  # The most that `kd serve` returns for each target.


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Returns the config of a run."""
  teacher, _, source = arg.partition(',')
  c = gemma3_270m_gsm8k.get_config(teacher)
  c.student.init = teacher
  c.steps = 4
  c.data.length = 128
  c.data.batch_size = 2
  c.data.seed = 0
  c.data.examples = 100
  c.data.tokenizer = teacher
  c.log.every = 1
  c.evaluation.baseline = False
  c.evaluation.sets = {}
  c.checkpoint.every = 4
  c.optimizer.lr.warmup_steps = 1
  c.cache.method = base.cache_method(
    'top_k', entries=ENTRIES, logprobs='float16'
  )
  if source.startswith('http'):
    c.teacher.source = 'server'
    c.teacher.server.url = source
    c.teacher.server.top_k = ENTRIES
  elif source not in ('', 'live'):
    c.teacher.source = 'cached'
    c.cache.folder = source
  return c
