"""A small run of generalized knowledge distillation (arXiv 2306.13649).

  ./bazelw run //:train -- --config=configs/gkd.py --workdir=/tmp/kd-gkd

Student and teacher are those of the quickstart. The student first learns from
the rows of the data, and then increasingly from its own samples for the same
prompts, up to half of the rows of each step. The teacher scores both, and the
objective is the Jensen-Shannon divergence. In configs/on_policy.py all rows are
sampled from the student and the divergence is the reverse KL.
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
