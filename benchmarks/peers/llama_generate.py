"""Timed program for llama.cpp's server: a batch of answers per step.

The argument is a JSON object:
  file: path of a GGUF file.
  prompts: token ids of each prompt, of equal length.
  new_tokens: number of tokens in each answer.
"""

from concurrent import futures
import json
import os
import sys
import urllib.request

from benchmarks import stepper


def main(argument):
  stream = stepper.claim_stdout()
  import xllamacpp

  spec = json.loads(argument)
  prompts, new_tokens = spec['prompts'], spec['new_tokens']
  params = xllamacpp.CommonParams()
  params.model.path = spec['file']
  params.n_parallel = len(prompts)
  # Total number of positions, over all answers.
  params.n_ctx = len(prompts) * (len(prompts[0]) + new_tokens + 16)
  params.cpuparams.n_threads = os.cpu_count()
  params.cpuparams_batch.n_threads = os.cpu_count()
  server = xllamacpp.Server(params)

  def ask(path, body=None):
    request = urllib.request.Request(
      f'{server.listening_address}{path}',
      json.dumps(body).encode() if body else None,
      {'Content-Type': 'application/json'},
    )
    with urllib.request.urlopen(request) as answer:
      return json.load(answer)

  def answer(ids):
    body = {
      'prompt': ids,
      'n_predict': new_tokens,
      'ignore_eos': True,
      'temperature': 0,
      'cache_prompt': False,
    }
    return ask('/completion', body)['tokens_predicted']

  threads = futures.ThreadPoolExecutor(len(prompts))

  def step():
    assert set(threads.map(answer, prompts)) == {new_tokens}

  size = ask('/v1/models')['data'][0]['meta']
  facts = {'parameters': size['n_params'], 'weight_bytes': size['size']}
  stepper.serve(stream, step, facts)


if __name__ == '__main__':
  main(sys.argv[1])
