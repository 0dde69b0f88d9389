"""llama.cpp as an oracle; runs in the oracles' environment.

Usage: python llama.py models GIVEN MADE
       python llama.py serve FILE

`serve` prints the URL of a server of FILE and ends when stdin is closed.
`models` reads GIVEN/cases.json and the arrays in GIVEN, writes
MADE/results.json and arrays; see client.py. Cases are by name, each a dict of
  file: path of a GGUF file.
  log_probs: names of arrays of ids [L]; each produces an array CASE.NAME [V] of
    log-probabilities of the next id, NaN for all but the `most` likely ids.
  most: number of most likely ids; all by default.
  generate: names of arrays of ids; for each, the result's `generated` has the
    greedily generated ids.
  new_tokens: maximum number of generated ids.
  texts: texts; the result's `ids` are their ids, with special tokens parsed.
  chats: lists of messages; the result's `chats` are [content, finish_reason] of
    the greedy answers.
  threads: number of CPU threads; 2 by default.
  mmproj: path of a vision tower; then `image_log_probs` is like `log_probs`,
    with values [text, png]: the base64 image replaces <image> in the text.
The result also has `size`, the size of the vocabulary.
"""

import json
import os
import sys
import urllib.request

import numpy as np
import xllamacpp


class _Model:
  """A local server of one model."""

  def __init__(self, file, threads, mmproj=''):
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.mmproj.path = mmproj
    params.n_ctx, params.n_parallel, params.warmup = 1024, 1, False
    params.cpuparams.n_threads = threads
    self._server = xllamacpp.Server(params)

  @property
  def url(self):
    return self._server.listening_address

  def ask(self, path, **body):
    request = urllib.request.Request(
      f'{self.url}{path}',
      json.dumps(body).encode() if body else None,
      {'Content-Type': 'application/json'},
    )
    with urllib.request.urlopen(request) as answer:
      return json.load(answer)

  @property
  def size(self):
    return self.ask('/v1/models')['data'][0]['meta']['n_vocab']

  def ids(self, text):
    body = {'add_special': True, 'parse_special': True}
    return self.ask('/tokenize', content=text, **body)['tokens']

  def complete(self, ids, **more):
    body = {'temperature': 0, 'return_tokens': True, 'cache_prompt': True}
    return self.ask('/completion', prompt=ids, **body, **more)


def _with_image(model, text, png):
  marker = model.ask('/props')['media_marker']
  return {
    'prompt_string': text.replace('<image>', marker),
    'multimodal_data': [png],
  }


def _log_probs(model, ids, size, most):
  # The server returns nothing for an id that ends the text or is half a
  # character, so the bias forces the id of 'a'. The log-probabilities are
  # computed before the bias.
  bias = [[model.ids('a')[-1], 1e6]]
  answer = model.complete(ids, n_predict=1, n_probs=most, logit_bias=bias)
  result = np.full(size, np.nan, np.float32)
  for token in answer['completion_probabilities'][0]['top_logprobs']:
    result[token['id']] = token['logprob']
  return result


def _chat(model, messages, most):
  answer = model.ask(
    '/v1/chat/completions', messages=messages, temperature=0, max_tokens=most
  )
  choice = answer['choices'][0]
  return [choice['message']['content'], choice['finish_reason']]


def models(cases, given, made):
  return {name: _case(name, c, given, made) for name, c in cases.items()}


def _case(name, case, given, made):
  threads, mmproj = case.get('threads', 2), case.get('mmproj', '')
  model = _Model(case['file'], threads, mmproj)
  size = model.size
  result = {'size': size, 'generated': {}}

  def ids(key):
    return np.load(os.path.join(given, f'{key}.npy')).tolist()

  for key in case.get('log_probs', ()):
    array = _log_probs(model, ids(key), size, case.get('most', size))
    np.save(os.path.join(made, f'{name}.{key}.npy'), array)
  for key, (text, png) in case.get('image_log_probs', {}).items():
    prompt = _with_image(model, text, png)
    array = _log_probs(model, prompt, size, case.get('most', size))
    np.save(os.path.join(made, f'{name}.{key}.npy'), array)
  for key in case.get('generate', ()):
    answer = model.complete(ids(key), n_predict=case['new_tokens'])
    result['generated'][key] = answer['tokens']
  if 'texts' in case:
    result['ids'] = [model.ids(text) for text in case['texts']]
  if 'chats' in case:
    result['chats'] = [
      _chat(model, chat, case['new_tokens']) for chat in case['chats']
    ]
  return result


def main(command, given, made):
  with open(os.path.join(given, 'cases.json'), encoding='utf-8') as f:
    cases = json.load(f)
  results = {'models': models}[command](cases, given, made)
  with open(os.path.join(made, 'results.json'), 'w', encoding='utf-8') as f:
    json.dump(results, f)


def serve(file):
  model = _Model(file, threads=2)
  print(model.url, flush=True)
  sys.stdin.read()


if __name__ == '__main__':
  serve(sys.argv[2]) if sys.argv[1] == 'serve' else main(*sys.argv[1:])
