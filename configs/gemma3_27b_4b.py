"""Distills Gemma 3 27B into 4B on a TPU slice, as a published guide does.

The run can be planned on any machine, without weights:

  ./bazelw run //:plan -- --config=configs/gemma3_27b_4b.py \
      --config.plan.topology=v5e:4x4 --workdir=/tmp/kd-plan

It fits: 9.01 of 15.75 GiB per chip according to the TPU compiler, 9.48 by
formula (docs/plan.md).

To train, pass the location of the teacher's weights, hf:DIR or gguf:FILE, as
the argument; the student starts from its own weights:

  python -m kd --config=configs/gemma3_27b_4b.py:hf:/path/to/gemma-3-27b-pt \
      --config.student.init=hf:/path/to/gemma-3-4b-pt --workdir=/path/to/run

The guide's settings: weight 0.5 each for the KL to the teacher at temperature 2
and for the labels; 32 rows per step in 4 micro-batches; AdamW with its default
settings, gradients clipped to norm 1, 1,000 steps of warm-up and a cosine
decay; flash attention; the layers' weights in int4, in blocks of 128 inputs,
and the inputs of their matrix products in fp8, both rounded as described in
docs/quantization.md. The mesh is for 16 chips. For other slices, mesh.fsdp x 4
micro-batches must divide the 32 rows.
"""

from kd.config import base


def get_config(arg=''):
  c = base.get_config()
  c.steps = 10_000
  c.teacher.init = arg
  if not arg:
    c.teacher.variant = '27b'
  c.student.variant = '4b'
  c.student.remat = 'block'
  # Flash attention: `auto` is splash on TPUs.
  c.teacher.attention = 'auto'
  c.student.attention = 'auto'
  c.student.quantize.update(weights='int4_128', activations='fp8')
  c.data.mixture = 'gsm8k_cot'
  c.data.batch_size = 32
  c.data.length = 2048
  c.losses = dict(
    kl=base.term('forward_kl', temperature=2.0, weight=0.5),
    ce=base.term('cross_entropy', weight=0.5),
  )
  c.objective.chunk_tokens = 128
  c.optimizer = base.adamw(
    base.schedule('warmup_cosine', peak=1e-4, warmup_steps=1000, final=0.0),
    b1=0.9,
    b2=0.999,
    epsilon=1e-8,
    weight_decay=0.01,
    clip_norm=1.0,
    micro_batches=4,
  )
  c.mesh.update(fsdp=8, sequence=2)
  c.evaluation.batch_size = 16
  c.checkpoint.every = 1000
  return c
