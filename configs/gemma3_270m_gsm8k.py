"""Distills Gemma 3 270M into half of its layers on GSM8K's worked solutions.

  python -m kd --workdir=/tmp/kd-gsm8k \
      --config=configs/gemma3_270m_gsm8k.py:gguf:/path/to/gemma-3-270m.gguf

The argument is the location of the teacher's weights: gguf:FILE, hf:DIR or
workdir:DIR. The student starts as every second layer of the teacher. It is
trained twice on the same rows: with the teacher's distributions, and with
cross-entropy only. This takes about an hour on two cores. The results are in
experiments/gemma3_270m_half.
"""

from kd.config import base


def get_config(arg=''):
  c = base.get_config()
  c.steps = 150
  c.teacher.init = arg
  c.teacher.dtype = 'float32'
  c.teacher.param_dtype = 'float32'
  c.student.init = 'teacher'
  c.student.keep_layers = (1, 3, 5, 7, 9, 11, 13, 15, 17)
  c.student.dtype = 'float32'
  c.data.mixture = 'gsm8k_cot'
  c.data.batch_size = 1
  c.data.length = 256
  c.losses = dict(kl=base.term('forward_kl', temperature=1.0))
  c.objective.chunk_tokens = 64
  c.optimizer = base.adamw(
    base.schedule('warmup_cosine', peak=3e-4, warmup_steps=15, final=3e-5)
  )
  c.evaluation.baseline = True
  c.evaluation.batch_size = 1
  c.evaluation.sets.held_out = base.evaluation_set(examples=32)
  c.checkpoint.every = 150
  c.checkpoint.keep = 1
  return c
