"""Trains the quickstart's teacher: addition and subtraction, 1.2M parameters.

  python -m kd --config=configs/quickstart_teacher.py \
      --workdir=/tmp/kd-teacher
  python -m kd --config=configs/quickstart_teacher.py \
      --workdir=/tmp/kd-teacher --mode=export

The second command's output is data/fixtures/quickstart_teacher. The model
learns from 50,000 problems with worked steps and correct answers. None of the
held-out problems is among them.
"""

from kd.config import base


def get_config():
  c = base.get_config()
  c.steps = 1000
  c.student.variant = 'tiny'
  c.student.dtype = 'float32'
  c.teacher.source = 'none'
  c.data.mixture = 'arithmetic_cot'
  c.data.tokenizer = 'bytes'
  c.data.batch_size = 32
  c.data.length = 128
  c.losses = dict(ce=base.term('cross_entropy'))
  c.objective.chunk_tokens = 4096
  c.optimizer = base.adamw(
    base.schedule('warmup_cosine', peak=3e-3, warmup_steps=100, final=3e-5),
    weight_decay=0.1,
  )
  c.evaluation.batch_size = 64
  c.evaluation.max_new_tokens = 48
  c.evaluation.sets.held_out = base.evaluation_set(examples=200, answers=100)
  c.checkpoint.every = 500
  c.log.every = 50
  return c
