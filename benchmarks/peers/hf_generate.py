"""Timed program for transformers' generate(): a batch of answers per step.

The argument is a JSON object:
  folder: Hugging Face folder of the model, or
  model: arguments of Gemma3TextConfig.
  prompts: token ids of each prompt, of equal length.
  new_tokens: number of tokens in each answer.
"""

import json
import os
import sys

from benchmarks import stepper


def main(argument):
  stream = stepper.claim_stdout()
  import torch

  torch.set_num_threads(os.cpu_count())
  torch.manual_seed(0)
  spec = json.loads(argument)
  model = _model(spec).eval()
  ids = torch.tensor(spec['prompts'])
  wanted = len(spec['prompts'][0]) + spec['new_tokens']

  def step():
    with torch.no_grad():
      found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=spec['new_tokens'],
        min_new_tokens=spec['new_tokens'],
        do_sample=True,
        # Sample from the full distribution, as our program does.
        top_k=0,
        top_p=1.0,
        pad_token_id=0,
      )
    assert found.shape == (len(ids), wanted)

  weights = list(model.parameters())
  facts = {
    'parameters': sum(p.numel() for p in weights),
    'weight_bytes': sum(p.numel() * p.element_size() for p in weights),
  }
  stepper.serve(stream, step, facts)


def _model(spec):
  import torch
  import transformers

  if 'folder' in spec:
    load = transformers.AutoModelForCausalLM.from_pretrained
    return load(spec['folder'], dtype=torch.float32)
  config = transformers.Gemma3TextConfig(**spec['model'])
  return transformers.Gemma3ForCausalLM(config).float()


if __name__ == '__main__':
  main(sys.argv[1])
