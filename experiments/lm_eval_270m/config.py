"""The export that lm-eval scores: the real Gemma 3 270M in float32.

--config=experiments/lm_eval_270m/config.py:FILE.gguf
"""

from kd.config import base


def get_config(file):
  c = base.get_config()
  c.student.init = f'gguf:{file}'
  c.export.dtype = 'float32'
  c.evaluation.sets = {}
  return c
