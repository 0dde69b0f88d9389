"""Clients of the OpenAI API (openai, lm-eval) in the oracles' environment.

Usage: python api.py ask GIVEN MADE

Reads GIVEN/cases.json with `url` (of a server, with /v1), `key`, `model`, a
`tokenizer` folder for transformers, `prompt` and `pairs` of a context and its
continuation. Writes MADE/results.json with `models`, `whole`, `parts`, `usage`,
`error`, `many` (openai), `scores` and `generated` (lm-eval). See client.py.
"""

import json
import os
import sys

import openai


def _ask(cases):
  client = openai.OpenAI(
    base_url=cases['url'], api_key=cases['key'], max_retries=0
  )
  chat = dict(
    model=cases['model'],
    messages=[{'role': 'user', 'content': cases['prompt']}],
    temperature=0.8,
    seed=2,
    max_completion_tokens=20,
  )
  create = client.chat.completions.create
  whole = create(**chat, logprobs=True, top_logprobs=2)
  (choice,) = whole.choices
  parts, usage = [], None
  for chunk in create(
    **chat, stream=True, stream_options={'include_usage': True}
  ):
    parts += [c.delta.content for c in chunk.choices if c.delta.content]
    usage = chunk.usage or usage
  try:
    client.completions.create(model=cases['model'], prompt='', temperature=-1)
    error = None
  except openai.BadRequestError as e:
    error = [e.param, e.message]
  many = client.completions.create(
    model=cases['model'], prompt=[[2, 9], [2, 10]], max_tokens=3, temperature=0
  )
  return {
    'models': [model.id for model in client.models.list()],
    'whole': choice.message.content,
    'tokens': [len(x.top_logprobs) for x in choice.logprobs.content],
    'parts': parts,
    'usage': [usage.prompt_tokens, usage.completion_tokens],
    'whole_usage': [
      whole.usage.prompt_tokens,
      whole.usage.completion_tokens,
    ],
    'error': error,
    'many': [c.text for c in many.choices],
  }


def _score(cases):
  from lm_eval.api import instance
  from lm_eval.models import openai_completions

  os.environ['OPENAI_API_KEY'] = cases['key']
  model = openai_completions.LocalCompletionsAPI(
    model=cases['model'],
    base_url=f'{cases["url"]}/completions',
    tokenizer=cases['tokenizer'],
    tokenizer_backend='huggingface',
    max_length=128,
    add_bos_token=True,
    batch_size=2,
  )
  scores = model.loglikelihood(
    [
      instance.Instance('loglikelihood', {}, tuple(pair), i)
      for i, pair in enumerate(cases['pairs'])
    ]
  )
  asked = (cases['prompt'], {'until': ['\n'], 'max_gen_toks': 20})
  generated = model.generate_until(
    [instance.Instance('generate_until', {}, asked, 0)]
  )
  return {'scores': scores, 'generated': generated}


def main(command, given, made):
  assert command == 'ask'
  with open(os.path.join(given, 'cases.json'), encoding='utf-8') as f:
    cases = json.load(f)
  results = _ask(cases) | _score(cases)
  with open(os.path.join(made, 'results.json'), 'w', encoding='utf-8') as f:
    json.dump(results, f)


if __name__ == '__main__':
  main(*sys.argv[1:])
