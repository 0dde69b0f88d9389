"""Timed program for kd's sampler: one batch of answers per step.

The argument is a JSON object:
  folder: Hugging Face folder of the model, or
  model: fields of Gemma3Config.
  prompts: token ids of each prompt.
  new_tokens: number of tokens in each answer.
  dtype: dtype of the activations.
  schemes: {}, or `weights` and `tables`, for the layers and the embedding.
"""

import json
import sys

import jax

from benchmarks import programs
from benchmarks import stepper
from kd.checkpoints import weights
from kd.core import host_memory
from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from kd.quantization import quantized_model
from kd.quantization import rules
from kd.sampling import engine
from kd.sampling import requests


def main(argument):
  stream = stepper.claim_stdout()
  spec = json.loads(argument)
  model, params = _model(spec)
  # No id stops an answer: all have the same length.
  words = engine.Vocabulary(model.config.vocab_size, (), 0, str)
  sampler = engine.Engine(model, words, len(spec['prompts']))
  settings = requests.SamplingSettings(
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    max_new_tokens=spec['new_tokens'],
    stop_strings=(),
  )
  asked = [
    requests.Request(tuple(ids), seed, 1)
    for seed, ids in enumerate(spec['prompts'])
  ]

  def step():
    found = sampler.generate(params, asked, settings)
    assert {len(s.ids) for (s,) in found} == {spec['new_tokens']}

  read = jax.eval_shape(model.decoding_weights, params)
  facts = {
    'parameters': model.config.parameter_count,
    'weight_bytes': sum(
      x.size * x.dtype.itemsize for x in jax.tree.leaves(read)
    ),
  }
  stepper.serve(stream, step, facts)


def _model(spec):
  model, params = _plain(spec)
  if not spec['schemes']:
    return model, params
  fields = {**spec['schemes'], 'rules': {}}
  schemes = rules.scheme_of(model.config, fields, 'schemes')
  stored = quantized_model.StoredModel(model, schemes, 'float32')
  make = jax.jit(stored.from_plain, donate_argnums=0)
  return stored, jax.block_until_ready(make(params, jax.random.key(0)))


def _plain(spec):
  if 'folder' in spec:
    init = f'hf:{spec["folder"]}'
    config = weights.model_config(init, 'folder')
    model = families.build(config, spec['dtype'], 'none', 'model')
    return model, weights.load(init, model, None, (), 'float32', 'folder')
  kinds = tuple(spec['model']['layer_kinds'])
  config = gemma3_config.Gemma3Config(**{**spec['model'], 'layer_kinds': kinds})
  model = families.build(config, spec['dtype'], 'none', 'model')
  return model, jax.block_until_ready(programs.random_params(model, 0))


if __name__ == '__main__':
  host_memory.use_large_pages()  # As `python -m kd` does.
  main(sys.argv[1])
