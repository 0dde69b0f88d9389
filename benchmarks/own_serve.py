"""Timed program for kd's server: one batch of HTTP requests per step.

The argument is a JSON object:
  folder: Hugging Face folder to serve.
  prompts: token ids of each prompt; all are requested at the same time.
  new_tokens: number of tokens in each answer.
  schemes: values of generate.quantize, {} for float32.
"""

from concurrent import futures
import json
import sys
import urllib.request

from benchmarks import served
from benchmarks import stepper


def main(argument):
  stream = stepper.claim_stdout()
  spec = json.loads(argument)
  prompts, new_tokens = spec['prompts'], spec['new_tokens']
  fields = {
    'serve.max_batch': len(prompts),
    'serve.max_length': len(prompts[0]) + new_tokens,
    'serve.timeout_ms': 3_600_000,
    **{f'generate.quantize.{k}': v for k, v in spec['schemes'].items()},
  }
  with served.running(f'hf:{spec["folder"]}', fields) as server:
    _serve(stream, server, prompts, new_tokens)


def _serve(stream, server, prompts, new_tokens):
  url = f'http://{server.host}:{server.port}/v1/completions'
  threads = futures.ThreadPoolExecutor(len(prompts))

  def answer(ids):
    body = {'prompt': ids, 'max_tokens': new_tokens, 'temperature': 0}
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request) as reply:
      return json.load(reply)['usage']['completion_tokens']

  def step():
    counts = set(threads.map(answer, prompts))
    # Prompts whose answers stop early cannot be used here.
    assert counts == {new_tokens}, counts

  stepper.serve(stream, step, {'parameters': server.parameters})


if __name__ == '__main__':
  main(sys.argv[1])
