"""Distills a small model that answers questions about pictures.

  python -m kd --config=configs/scenes.py --workdir=/tmp/kd-scenes

Teacher and student each have a vision tower. configs/scenes_teacher.py trained
the teacher, which is part of the project. Three in ten of the labels are wrong.
The student learns from the teacher's distributions, and its tower from the
teacher's tower. As a baseline, the run also trains the same student with
cross-entropy only, on the same rows and steps. experiments/scenes has the
results over three seeds.
"""

from kd.config import base


def get_config():
  c = base.get_config()
  c.steps = 500
  c.teacher.init = 'hf:{project}/data/fixtures/scenes_teacher'
  c.teacher.vision = 'own'
  c.teacher.dtype = 'float32'
  c.teacher.param_dtype = 'float32'
  c.student.variant = 'nano'
  c.student.vision = 'own'
  c.student.dtype = 'float32'
  c.data.mixture = 'scenes_noisy'
  c.data.batch_size = 16
  c.data.length = 192
  c.data.images.per_row = 3
  c.losses = dict(
    kl=base.term('forward_kl', temperature=1.0),
    tower=base.term('hidden_states', states='tower', part='image', weight=1.0),
  )
  c.objective.chunk_tokens = 4096
  c.optimizer = base.adamw(
    base.schedule('warmup_cosine', peak=5e-3, warmup_steps=50, final=5e-5)
  )
  c.evaluation.every = 250
  c.evaluation.baseline = True
  c.evaluation.batch_size = 64
  c.evaluation.max_new_tokens = 72
  c.evaluation.sets.held_out = base.evaluation_set(examples=256, answers=256)
  c.checkpoint.every = 250
  c.log.every = 20
  return c
