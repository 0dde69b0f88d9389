"""Transformers' greedy generation; runs in the oracles' environment.

Usage: python generate.py greedy GIVEN MADE

Reads GIVEN/cases.json with `gguf` (the model), `prompts` (names of arrays of
ids [L] in GIVEN) and `new_tokens`. Writes MADE/results.json with `generated`:
the new ids for each prompt, including the stop id. See client.py.
"""

import json
import os
import sys

import hf
import numpy as np
import torch


def greedy(cases, given):
  model, _ = hf.load_gguf(cases['gguf'])
  model.eval()
  generated = []
  with torch.inference_mode():
    for key in cases['prompts']:
      ids = np.load(os.path.join(given, f'{key}.npy')).astype(np.int64)
      out = model.generate(
        torch.from_numpy(ids)[None],
        max_new_tokens=cases['new_tokens'],
        do_sample=False,
        eos_token_id=1,
        pad_token_id=0,
      )
      generated.append(out[0, len(ids) :].tolist())
  return {'generated': generated}


def main(command, given, made):
  with open(os.path.join(given, 'cases.json'), encoding='utf-8') as f:
    cases = json.load(f)
  results = {'greedy': greedy}[command](cases, given)
  with open(os.path.join(made, 'results.json'), 'w', encoding='utf-8') as f:
    json.dump(results, f)


if __name__ == '__main__':
  main(*sys.argv[1:])
