"""PEFT as an oracle; runs in the oracles' environment.

Usage: python adapters.py load GIVEN MADE; see client.py.

load: cases by name, each a dict of
  base: folder of a text model.
  adapter: folder of its adapter.
  with_vision: whether to put the base into a random Gemma 3 model with a vision
    tower first.

  Each produces logits [L, V] of the ids in GIVEN/text.npy: CASE.base,
  CASE.adapted and CASE.merged (merge_and_unload), and `warnings`, the warnings
  of loading.
"""

import json
import os
import sys
import warnings

import numpy as np
import peft
import torch
import transformers


def _base(case):
  model = transformers.AutoModelForCausalLM.from_pretrained(
    case['base'], dtype=torch.float32, attn_implementation='eager'
  )
  if not case['with_vision']:
    return model.eval()
  vision = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
  )
  config = transformers.Gemma3Config(
    text_config=model.config.to_dict(),
    vision_config=vision,
    mm_tokens_per_image=4,
  )
  whole = transformers.Gemma3ForConditionalGeneration(config)
  whole.model.language_model.load_state_dict(model.model.state_dict())
  whole.tie_weights()
  return whole.eval()


def load(cases, given, made):
  text = np.load(os.path.join(given, 'text.npy')).astype(np.int64)
  ids = torch.from_numpy(text)[None]
  results = {}
  for name, case in cases.items():
    model = _base(case)

    def save(key, model, name=name):
      with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0]
      np.save(os.path.join(made, f'{name}.{key}.npy'), logits.numpy())

    save('base', model)
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter('always')
      adapted = peft.PeftModel.from_pretrained(model, case['adapter'])
    save('adapted', adapted.eval())
    save('merged', adapted.merge_and_unload().eval())
    results[name] = {'warnings': [str(w.message) for w in caught]}
  return results


if __name__ == '__main__':
  command, given_, made_ = sys.argv[1:]
  with open(os.path.join(given_, 'cases.json'), encoding='utf-8') as f:
    result = {'load': load}[command](json.load(f), given_, made_)
  with open(os.path.join(made_, 'results.json'), 'w', encoding='utf-8') as f:
    json.dump(result, f)
