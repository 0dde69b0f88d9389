"""Gemma 3 with images in transformers; runs in the oracles' environment.

Usage: python vision.py COMMAND GIVEN MADE

See client.py. Commands:

make: saves a random model with `config` in `directory`, as transformers writes
  it, and in `published`, with the tensor names of the published files. For each
  name in `texts`, ids [L] with `image_id` at the places of images and
  NAME.pixels uint8 [I, S, S, 3] produce logits NAME.logits [L, V]. For each
  text in `gradients` and each KEY in `keys`, NAME.KEY is the gradient of the
  sum of NAME.weights [L, V] x logits with respect to the parameter outside of
  the text model whose name ends with KEY.
logits: computes the same logits with the model in `directory`.
"""

import json
import os
import sys

import numpy as np
import safetensors.torch
import torch
import transformers


def _inputs(ids, pixels, image_id):
  ids = torch.tensor(ids[None].astype(np.int64))
  pixels = torch.tensor(pixels.astype(np.float32) / 127.5 - 1)
  return dict(
    input_ids=ids,
    pixel_values=pixels.permute(0, 3, 1, 2),
    token_type_ids=(ids == image_id).long(),
    attention_mask=torch.ones_like(ids),
  )


def _logits(model, case, given, made):
  for name in case['texts']:
    load = lambda key: np.load(os.path.join(given, f'{key}.npy'))
    inputs = _inputs(load(name), load(f'{name}.pixels'), case['image_id'])
    model.zero_grad()
    logits = model(**inputs).logits[0]
    np.save(
      os.path.join(made, f'{name}.logits.npy'), logits.detach().float().numpy()
    )
    if name in case.get('gradients', []):
      (logits * torch.tensor(load(f'{name}.weights'))).sum().backward()
      for key in case['keys']:
        ((_, parameter),) = [
          (n, p)
          for n, p in model.named_parameters()
          if n.endswith(key) and 'language_model' not in n
        ]
        np.save(os.path.join(made, f'{name}.{key}.npy'), parameter.grad.numpy())


def make(case, given, made):
  torch.manual_seed(0)
  config = transformers.Gemma3Config(**case['config'])
  config._attn_implementation = 'eager'
  model = transformers.Gemma3ForConditionalGeneration(config).eval()
  with torch.no_grad():
    for name, p in model.named_parameters():
      if p.ndim == 1:
        p.normal_(float(p[0]), 0.3)
      elif name.endswith('position_embedding.weight'):
        p.normal_(0, 1)
      else:
        p.normal_(0, (p[0].numel()) ** -0.5)
  model.save_pretrained(case['directory'])
  os.makedirs(case['published'])
  with open(os.path.join(case['directory'], 'config.json')) as f:
    written = f.read()
  with open(os.path.join(case['published'], 'config.json'), 'w') as f:
    f.write(written)
  stored = safetensors.torch.load_file(
    os.path.join(case['directory'], 'model.safetensors')
  )
  published = {}
  for key, tensor in stored.items():
    key = key.removeprefix('model.')
    if key.startswith('vision_tower.') and 'vision_model' not in key:
      key = key.replace('vision_tower.', 'vision_tower.vision_model.')
    if key.startswith('language_model.') and '.model.' not in key:
      key = key.replace('language_model.', 'language_model.model.', 1)
    published[key] = tensor
  safetensors.torch.save_file(
    published, os.path.join(case['published'], 'model.safetensors')
  )
  _logits(model, case, given, made)
  return {'written': sorted(stored), 'published': sorted(published)}


def logits(case, given, made):
  model, info = transformers.Gemma3ForConditionalGeneration.from_pretrained(
    case['directory'], output_loading_info=True, dtype=torch.float32
  )
  _logits(model.eval(), case, given, made)
  return {key: sorted(info[key]) for key in ('missing_keys', 'unexpected_keys')}


def main():
  command, given, made = sys.argv[1:]
  with open(os.path.join(given, 'cases.json'), encoding='utf-8') as f:
    case = json.load(f)
  results = {'make': make, 'logits': logits}[command](case, given, made)
  with open(os.path.join(made, 'results.json'), 'w', encoding='utf-8') as f:
    json.dump(results, f)


if __name__ == '__main__':
  main()
