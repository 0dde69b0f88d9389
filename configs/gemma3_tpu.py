"""Distills a large Gemma 3 into a small one on a TPU slice.

The run can be planned on any machine, without weights:

  ./bazelw run //:plan -- --config=configs/gemma3_tpu.py \
      --config.teacher.variant=27b --config.student.variant=4b \
      --config.plan.topology=v5e:4x4 --workdir=/tmp/kd-plan

To train, pass the location of the teacher's weights, hf:DIR or gguf:FILE:

  python -m kd --config=configs/gemma3_tpu.py:hf:/path/to/gemma-3-4b-pt \
      --config.student.variant=1b --workdir=/path/to/run

Each chip gets one row per step: data.batch_size and evaluation.batch_size are
the number of chips. docs/plan.md lists the requirements of several slices.
"""

from kd.config import base


def get_config(arg=''):
  c = base.get_config()
  c.steps = 10_000
  c.teacher.init = arg
  c.student.variant = '1b'
  c.student.remat = 'block'
  c.data.mixture = 'gsm8k_cot'
  c.data.batch_size = 16
  c.data.length = 2048
  c.losses = dict(kl=base.term('forward_kl'))
  c.objective.chunk_tokens = 128
  c.optimizer = base.adamw(
    base.schedule('warmup_cosine', peak=1e-4, warmup_steps=500, final=1e-5)
  )
  c.evaluation.batch_size = 16
  c.checkpoint.every = 1000
  return c
