"""Trains a small model with a vision tower to answer questions on pictures.

  python -m kd --config=configs/scenes_teacher.py --workdir=/tmp/kd-scenes

It learns from 40,000 drawn scenes of up to three shapes with correct answers:
which shapes there are, where they are and how many. None of the held-out
arrangements of shapes is among them. An example takes about 65 positions, 16 of
which are soft tokens of its picture.
"""

from kd.config import base


def get_config():
  c = base.get_config()
  c.steps = 2500
  c.student.variant = 'tiny'
  c.student.vision = 'own'
  c.student.dtype = 'float32'
  c.teacher.source = 'none'
  c.data.mixture = 'scenes'
  c.data.tokenizer = 'bytes'
  c.data.batch_size = 16
  c.data.length = 192
  c.data.images.per_row = 3
  c.losses = dict(ce=base.term('cross_entropy'))
  c.objective.chunk_tokens = 4096
  c.optimizer = base.adamw(
    base.schedule('warmup_cosine', peak=2e-3, warmup_steps=100, final=2e-5),
    weight_decay=0.1,
  )
  c.evaluation.batch_size = 64
  c.evaluation.max_new_tokens = 72
  c.evaluation.sets.held_out = base.evaluation_set(examples=200, answers=200)
  c.checkpoint.every = 500
  c.log.every = 50
  return c
