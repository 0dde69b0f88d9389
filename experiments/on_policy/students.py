"""Students of experiments/on_policy.

All start from one student, which cross-entropy has taught to answer, if badly,
and train for the same steps on the same rows and prompts. They differ in whose
answers the rows contain and in their objective.
"""

import ml_collections

from kd.config import base
from kd.configs import quickstart

LOSSES = {
  'start': 'cross_entropy',
  'cross_entropy': 'cross_entropy',
  'off_policy': 'forward_kl',
  'on_policy': 'reverse_kl',
  'mixed': 'jensen_shannon',
}
_FRACTIONS = {'on_policy': 1.0, 'mixed': 0.5}


def config(kind: str, start: str) -> ml_collections.ConfigDict:
  """Returns the config of a student.

  Args:
    kind: a name of LOSSES.
    start: workdir:DIR of the student 'start', for all others.
  """
  c = quickstart.get_config()
  c.losses = dict(loss=base.term(LOSSES[kind]))
  c.evaluation.baseline = False
  if kind == 'start':
    return c
  c.steps = 400
  c.student.init = start
  c.student.variant = ''
  c.data.pack = False
  c.data.length = 80
  c.data.batch_size = 64
  if kind in _FRACTIONS:
    c.teacher.source = 'on_policy'
    c.rollout = base.rollout(
      fraction=_FRACTIONS[kind], max_new_tokens=48, batch_size=64
    )
  c.optimizer = base.adamw(
    base.schedule('warmup_cosine', peak=2e-3, warmup_steps=20, final=2e-5)
  )
  c.checkpoint.every = 200
  return c
