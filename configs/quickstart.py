"""Distills a small model in five minutes on two cores, without downloads.

  ./bazelw run //:train -- --config=configs/quickstart.py \
      --workdir=/tmp/kd-quickstart

A student of 277 thousand parameters learns to add and subtract from a teacher
of 1.2 million, which is part of the project (configs/quickstart_teacher.py
trained it). Three in ten of the training problems have wrong solutions. This is
where a teacher helps: its distribution at each token does not depend on the
label. As a baseline, the run also trains the same student with cross-entropy
only, on the same rows and steps. Both are evaluated every 80 steps: curves.png
shows their progress, and the report compares them. experiments/quickstart has
the results over three seeds.
"""

from kd.config import base


def get_config():
  c = base.get_config()
  c.steps = 800
  c.teacher.init = 'hf:{project}/data/fixtures/quickstart_teacher'
  c.teacher.dtype = 'float32'
  c.teacher.param_dtype = 'float32'
  c.student.variant = 'nano'
  c.student.dtype = 'float32'
  c.data.mixture = 'arithmetic_noisy'
  c.data.batch_size = 16
  c.data.length = 128
  c.losses = dict(kl=base.term('forward_kl', temperature=1.0))
  c.objective.chunk_tokens = 4096
  c.optimizer = base.adamw(
    base.schedule('warmup_cosine', peak=5e-3, warmup_steps=50, final=5e-5)
  )
  c.evaluation.every = 80
  c.evaluation.baseline = True
  c.evaluation.batch_size = 64
  c.evaluation.max_new_tokens = 48
  c.evaluation.sets.held_out = base.evaluation_set(examples=256, answers=256)
  c.checkpoint.every = 400
  c.log.every = 20
  return c
