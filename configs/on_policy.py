"""A small run of on-policy distillation with the reverse KL.

  python -m kd --workdir=/tmp/kd-on-policy \
      --config=configs/on_policy.py:workdir:/tmp/kd-gkd

The argument is the location of the student's initial weights: workdir:DIR,
hf:DIR or gguf:FILE. The student must produce plausible answers before it can
learn from them: configs/gkd.py and configs/quickstart.py train one. Every row
is an answer that the student has just sampled for a prompt of the data. At each
of its tokens the student is compared with the teacher, so that it learns to
recover from its own mistakes.
"""

from kd.config import base
from kd.configs import quickstart


def get_config(arg='random'):
  c = quickstart.get_config()
  c.steps = 200
  c.student.init = arg
  if arg != 'random':
    c.student.variant = ''
  c.teacher.source = 'on_policy'
  c.rollout = base.rollout(fraction=1.0, max_new_tokens=64, batch_size=16)
  c.data.pack = False
  c.losses = dict(kl=base.term('reverse_kl'))
  c.optimizer = base.adamw(
    base.schedule('warmup_cosine', peak=1e-3, warmup_steps=10, final=1e-5)
  )
  c.evaluation.baseline = False
  c.checkpoint.every = 100
  return c
