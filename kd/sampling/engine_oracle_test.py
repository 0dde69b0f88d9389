"""Tests that greedy text of the real Gemma 3 270M equals transformers'."""

import numpy as np

from kd.checkpoints import weights
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.models import families
from kd.sampling import engine
from kd.sampling import requests
from tests.oracles import client

NEW_TOKENS = 10
TEXTS = [
  'The capital of France is',
  'Q: Tom has 12 apples and gives away 5. How many are left?\nA:',
  # Longer than the window of the local layers.
  'One, two, three, four. ' * 80 + 'The next number',
]


def test_greedy_text_equals_transformers(tmp_path):
  init = f'gguf:{client.gguf()}'
  tokenizer = tokenizers.for_source(init, 'student.init')
  prompts = [
    templates.encode_prompt(tokenizer, 'plain', templates.exchange(text))
    for text in TEXTS
  ]
  arrays = {f'prompt{i}': np.asarray(p) for i, p in enumerate(prompts)}
  wanted, _ = client.run(
    'generate',
    'greedy',
    {'gguf': client.gguf(), 'prompts': list(arrays), 'new_tokens': NEW_TOKENS},
    arrays,
    tmp_path / 'greedy',
  )
  model = families.build(
    weights.model_config(init, 'student.init'), 'float32', 'none', 'student'
  )
  assert len(prompts[-1]) > model.config.window
  params = weights.load(init, model, None, (), 'float32', 'student.init')
  sampler = engine.Engine(model, engine.vocabulary(tokenizer), batch_size=2)
  found = sampler.generate(
    params,
    [requests.Request(tuple(ids), 0, 1) for ids in prompts],
    requests.greedy(NEW_TOKENS),
  )
  for (sample,), ids in zip(found, wanted['generated'], strict=True):
    ended = ids[-1] in tokenizer.stop_ids
    assert list(sample.ids) == (ids[:-1] if ended else ids)
    assert sample.finish == ('stop' if ended else 'length')
