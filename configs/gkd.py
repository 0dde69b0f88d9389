"""Generalised knowledge distillation (arXiv 2306.13649), small.

  ./bazelw run //:train -- --config=configs/gkd.py --workdir=/tmp/kd-gkd

The quickstart's student and teacher. The student learns from the data's rows
first, and then, more and more, from what it writes itself to the same prompts:
up to half of each step's rows. The teacher scores both, and the objective
is the Jensen-Shannon divergence. configs/on_policy.py is the case where all
rows are the student's own and the divergence is the reverse KL.
"""

from kd.config import base
from kd.configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.teacher.source = 'on_policy'
  c.rollout = base.rollout(
    fraction=base.schedule(
      'linear', begin=0.0, end=0.5, first_step=200, last_step=400
    ),
    max_new_tokens=64,
    batch_size=16,
  )
  c.data.pack = False
  c.losses = dict(jsd=base.term('jensen_shannon', beta=0.5))
  return c
