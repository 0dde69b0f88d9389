"""The project's own server as a timed program: answers by HTTP a step.

Its argument is a JSON object:
  folder: a Hugging Face folder that is served.
  prompts: ids of each, which are asked for at the same time.
  new_tokens: of each answer.
  schemes: values of generate.quantize, {} for float32.
"""

from concurrent import futures
import json
import re
import subprocess
import sys
import urllib.request

from benchmarks import alternate
from benchmarks import stepper


def main(argument):
  stream = stepper.claim_stdout()
  spec = json.loads(argument)
  prompts, new_tokens = spec['prompts'], spec['new_tokens']
  length = len(prompts[0]) + new_tokens
  flags = {
    'serve.port': 0,
    'serve.max_batch': len(prompts),
    'serve.max_length': length,
    'serve.timeout_ms': 3_600_000,
    **{f'generate.quantize.{k}': v for k, v in spec['schemes'].items()},
  }
  process = subprocess.Popen(
    [sys.executable, '-m', 'kd', 'serve', f'own=hf:{spec["folder"]}']
    + [f'--config.{key}={value}' for key, value in flags.items()],
    stdout=subprocess.PIPE,
    text=True,
    env=alternate.environment(),
  )
  try:
    _serve(stream, process, prompts, new_tokens)
  finally:
    process.kill()
    process.wait()


def _serve(stream, process, prompts, new_tokens):
  url, parameters = '', 0
  for line in process.stdout:
    if found := re.match(r'own: ([\d,]+) parameters', line):
      parameters = int(found[1].replace(',', ''))
    if found := re.search(r'http://\S+', line):
      url = found[0]
    if line.startswith('ready'):
      break
  threads = futures.ThreadPoolExecutor(len(prompts) + 1)
  # The server's lines are read, so that its pipe does not fill.
  threads.submit(lambda: list(process.stdout))

  def answer(ids):
    body = {'prompt': ids, 'max_tokens': new_tokens, 'temperature': 0}
    request = urllib.request.Request(
      f'{url}/v1/completions', json.dumps(body).encode()
    )
    with urllib.request.urlopen(request) as reply:
      return json.load(reply)['usage']['completion_tokens']

  def step():
    counts = set(threads.map(answer, prompts))
    # A prompt whose answer stops early is none for this benchmark.
    assert counts == {new_tokens}, counts

  stepper.serve(stream, step, {'parameters': parameters})


if __name__ == '__main__':
  main(sys.argv[1])
