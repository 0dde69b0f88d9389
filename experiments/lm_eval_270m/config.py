"""The export that lm-eval scores: the real Gemma 3 270M in float32.

--config=experiments/lm_eval_270m/config.py:gguf:FILE
"""

from kd.config import base


def get_config(arg=''):
  c = base.get_config()
  c.student.init = arg
  c.teacher.init = arg  # A run needs one; an export does not.
  c.export.dtype = 'float32'
  c.evaluation.sets = {}
  return c
