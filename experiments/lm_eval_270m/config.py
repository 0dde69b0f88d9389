"""The export that lm-eval scores: the real Gemma 3 270M in float32.

--config=experiments/lm_eval_270m/config.py:gguf:FILE
"""

from kd.config import base


def get_config(arg=''):
  c = base.get_config()
  c.student.init = arg
  c.teacher.init = arg  # Needed for training; an export does not read it.
  c.export.dtype = 'float32'
  c.evaluation.sets = {}
  return c
