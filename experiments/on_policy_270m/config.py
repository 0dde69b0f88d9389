"""The students of experiments/on_policy_270m.

  --config=experiments/on_policy_270m/config.py:TEACHER[,KIND,START]

TEACHER is the source of the teacher's weights, such as gguf:FILE. Without KIND
and START the config is that of the run 'start'. KIND is a key of STUDENTS;
START is the workdir of 'start', from which the others take their parameters.
"""

import ml_collections

from kd.config import base
from kd.configs import gemma3_270m_gsm8k

# (loss, fraction of rows that the student answers itself)
STUDENTS = {
  'cross_entropy': ('cross_entropy', 0.0),
  'forward_data': ('forward_kl', 0.0),
  'reverse_data': ('reverse_kl', 0.0),
  'forward_own': ('forward_kl', 1.0),
  'reverse_own': ('reverse_kl', 1.0),
  'mixed': ('jensen_shannon', 0.5),
}


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Returns the config of one student."""
  teacher, *student = arg.split(',')
  c = gemma3_270m_gsm8k.get_config(teacher)
  c.evaluation.baseline = False
  c.evaluation.batch_size = 4
  c.log.every = 5
  if not student:
    return c
  kind, start = student
  loss, own_rows = STUDENTS[kind]
  c.losses = dict(loss=base.term(loss))
  c.student.init = f'workdir:{start}'
  c.student.keep_layers = ()
  c.steps = 30
  c.data.pack = False
  c.data.length = 192
  c.data.batch_size = 4
  c.optimizer.lr.peak = 1e-4
  c.optimizer.lr.warmup_steps = 3
  c.optimizer.lr.final = 1e-5
  c.checkpoint.every = 30
  if own_rows:
    c.teacher.source = 'on_policy'
    c.rollout = base.rollout(fraction=own_rows, max_new_tokens=96, batch_size=4)
  return c
