"""Gemma 3 270M in Q4_0, trained to behave like itself in full precision.

The argument is the source of the weights: gguf:FILE, hf:DIR or workdir:DIR. The
student is the teacher with its layers rounded to Q4_0 and its embedding to Q8_0
in every forward pass. It is trained twice on the same rows: with the teacher's
distributions, and with cross-entropy only.
"""

from kd.config import base
from kd.configs import gemma3_270m_gsm8k


def get_config(arg=''):
  c = gemma3_270m_gsm8k.get_config(arg)
  c.steps = 20
  c.student.keep_layers = ()
  c.student.quantize.weights = 'q4_0'
  c.student.quantize.tables = 'q8_0'
  # The layers of the file are in Q5_0: see docs/quantization.md.
  c.student.quantize.dither = 0.25
  c.data.mixture = 'gsm8k_and_prose'
  c.data.rates = 'tokens'
  c.optimizer = base.adamw(
    base.schedule('warmup_cosine', peak=3e-5, warmup_steps=2, final=3e-6)
  )
  c.evaluation.every = 20
  c.evaluation.sets = dict(
    gsm8k=base.evaluation_set(mixture='gsm8k_cot', examples=24),
    prose=base.evaluation_set(mixture='reference_prose', examples=24),
  )
  c.checkpoint.every = 20
  c.export.formats = ('gguf',)
  c.export.gguf_type = ('Q4_0',)
  return c
