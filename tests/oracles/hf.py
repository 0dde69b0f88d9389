"""Transformers as an oracle; runs in the oracles' environment.

Usage: python hf.py COMMAND GIVEN MADE

Reads GIVEN/cases.json and the arrays in GIVEN, writes MADE/results.json and
arrays; see client.py. Commands:

models: cases by name, each a dict of
  directory or gguf: path of the model. With `config`, fields of its
    configuration class and `model_type` (default: gemma3_text), a random model
    is created there first.
  dtype: 'float32' or 'bfloat16'; a GGUF file is always loaded in float32.
  logits: names of arrays of ids [L]; each produces an array CASE.NAME [L, V].
  embedded: names of arrays of ids; each produces CASE.NAME.embedded [L, D], the
    input of the first layer.
  generate: names of arrays of ids; for each, the result's `generated` has 16
    greedily generated ids.
  digests: if true, the result's `digests` are SHA-256 of the float32 tensors.
  The result also has `missing` and `unexpected`, keys of the loaded files.

shapes: configs by name, as `config` above; nothing is allocated. Each produces
  `parameters`, their number with tied ones counted once, and `tensors`, the
  shape of each tensor by name.
"""

import functools
import hashlib
import json
import os
import sys

import gguf
import numpy as np
import torch
import transformers
from transformers import modeling_gguf_pytorch_utils


def models(cases, given, made):
  return {name: _case(name, c, given, made) for name, c in cases.items()}


def _from_config(config):
  config = {'model_type': 'gemma3_text', **config}
  return transformers.AutoModelForCausalLM.from_config(
    transformers.AutoConfig.for_model(**config)
  )


def shapes(cases, given, made):
  del given, made
  with torch.device('meta'):
    return {
      name: _shapes(_from_config(config)) for name, config in cases.items()
    }


def _shapes(model):
  return {
    'parameters': sum(p.numel() for p in model.parameters()),
    'tensors': {key: list(t.shape) for key, t in model.state_dict().items()},
  }


def _make(config, directory):
  """Saves a random model with activations and logits of magnitude 1."""
  torch.manual_seed(0)
  model = _from_config(config)
  with torch.no_grad():
    for parameter in model.parameters():
      if parameter.ndim == 1:
        # The initial scales, 0 or 1, would have no effect.
        parameter.normal_(float(parameter[0]), 0.3)
      else:
        parameter.normal_(0, parameter.shape[1] ** -0.5)
  model.save_pretrained(directory)


def load_gguf(file):
  """Loads a GGUF file like from_pretrained(gguf_file=), without accelerate."""
  # Otherwise each of the two calls would read the whole vocabulary, for 10 s.
  gguf.GGUFReader = functools.cache(gguf.GGUFReader)
  folder, name = os.path.split(file)
  config = transformers.AutoConfig.from_pretrained(folder, gguf_file=name)
  config._attn_implementation = 'eager'
  model = transformers.AutoModelForCausalLM.from_config(
    config, dtype=torch.float32
  )
  tensors = modeling_gguf_pytorch_utils.load_gguf_checkpoint(
    file, return_tensors=True, model_to_load=model
  )['tensors']
  found = model.load_state_dict(tensors, strict=False)
  return model, found._asdict()


def _load(case):
  if 'gguf' in case:
    return load_gguf(case['gguf'])
  return transformers.AutoModelForCausalLM.from_pretrained(
    case['directory'],
    dtype=getattr(torch, case['dtype']),
    attn_implementation='eager',
    output_loading_info=True,
  )


def _case(name, case, given, made):
  if 'config' in case:
    _make(case['config'], case['directory'])
  model, info = _load(case)
  model.eval()
  tied = model.get_output_embeddings().weight
  result = {
    'missing': sorted(map(str, info['missing_keys'])),
    'unexpected': sorted(map(str, info['unexpected_keys'])),
    'tied': bool(torch.equal(tied, model.get_input_embeddings().weight)),
  }

  def ids(key):
    array = np.load(os.path.join(given, f'{key}.npy'))
    return torch.from_numpy(array.astype(np.int64))[None]

  def save(key, tensor):
    np.save(os.path.join(made, f'{name}.{key}.npy'), tensor.float().numpy())

  with torch.inference_mode():
    for key in case['logits'] if 'logits' in case else ():
      save(key, model(ids(key), use_cache=False).logits[0])
    for key in case['embedded'] if 'embedded' in case else ():
      save(f'{key}.embedded', model.get_input_embeddings()(ids(key))[0])
    for key in case['generate'] if 'generate' in case else ():
      made_ids = model.generate(ids(key), max_new_tokens=16, do_sample=False)
      result.setdefault('generated', {})[key] = made_ids[0].tolist()
  if 'digests' in case:
    result['digests'] = {
      key: hashlib.sha256(t.float().contiguous().numpy()).hexdigest()
      for key, t in model.state_dict().items()
    }
  return result


def main(command, given, made):
  with open(os.path.join(given, 'cases.json'), encoding='utf-8') as f:
    cases = json.load(f)
  run = {'models': models, 'shapes': shapes}[command]
  results = run(cases, given, made)
  with open(os.path.join(made, 'results.json'), 'w', encoding='utf-8') as f:
    json.dump(results, f)


if __name__ == '__main__':
  main(*sys.argv[1:])
