"""A small run with every kind of loss term.

A nano student learns arithmetic from the quickstart's teacher: from its soft
targets, from labels, from hidden states and from attention, with schedules, and
only at the positions where the student is least certain.

  bazel run //:train -- --config=configs/all_terms.py --workdir=/tmp/kd_terms
"""

import functools

from kd.config import base
from kd.configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.steps = 200
  ramp = functools.partial(base.schedule, first_step=0, last_step=100)
  warm = ramp('linear', begin=4.0, end=1.0)
  fade = ramp('cosine', begin=0.5, end=0.0)
  c.losses = dict(
    steps=base.term('forward_kl', part='rationale', temperature=warm),
    answers=base.term('reverse_kl', part='answer', weight=0.5, clip=20.0),
    labels=base.term('cross_entropy', weight=0.1, label_smoothing=0.05),
    hidden=base.term(
      'hidden_states',
      weight=fade,
      map='adaptive',
      pairs=2,
      remap_every=50,
      dropout=0.1,
    ),
    attention=base.term('attention_maps', weight=0.1, map='last'),
    relations=base.term('attention_relations', weight=0.1, relation_heads=4),
  )
  c.objective.positions = base.positions(
    'student_entropy', fraction=ramp('linear', begin=1.0, end=0.5)
  )
  c.optimizer.lr.warmup_steps = 20
  c.evaluation.baseline = False
  return c
