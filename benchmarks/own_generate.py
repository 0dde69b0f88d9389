"""The project's own sampler as a timed program: a batch of answers a step.

Its argument is a JSON object:
  folder: a Hugging Face folder that the model is loaded from, or
  model: fields of Gemma3Config.
  prompts: ids of each.
  new_tokens: of each answer.
  dtype: of activations.
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

  count = model.config.parameter_count
  stepper.serve(stream, step, {'parameters': count})


def _model(spec):
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
