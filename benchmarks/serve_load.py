"""Loads the server with Poisson arrivals below and above its capacity.

Starts `kd serve` with a model (--model), measures its capacity in requests per
second, then sends requests at random times at each of --loads times that rate
for --duration_s. Each answer is compared with the answer to the same request
sent by itself. Prints one line of JSON: for each load the number of requests
that were answered, refused (429), late (504), lost and mixed up, percentiles of
the time to the first token, and the server's memory before and after.
"""

from collections.abc import Mapping, Sequence
from concurrent import futures
import http.client
import json
import random
import re
import time
from typing import Any

from absl import flags
import numpy as np

from benchmarks import alternate
from benchmarks import needs
from benchmarks import results
from benchmarks import served

_MODEL = flags.DEFINE_string(
  'model', 'data/fixtures/quickstart_teacher', 'Model to serve.'
)
_LOADS = flags.DEFINE_list(
  'loads', ['0.8', '2'], 'Arrival rates, relative to the capacity.'
)
_DURATION_S = flags.DEFINE_float(
  'duration_s', 600.0, 'Duration of each load in seconds.', lower_bound=1
)
_TOKENS = flags.DEFINE_integer('tokens', 32, 'Maximum tokens per answer.')
_BATCH = flags.DEFINE_integer('batch', 32, 'Maximum batch size.')

_KINDS = 40  # Number of different requests.
_PATIENT_MS = 3_600_000
# More than the server accepts; each client is a thread that waits for answers.
_CLIENTS = 512
_PATH = '/v1/chat/completions'


class _Client:
  """Sends requests to a server."""

  def __init__(self, port: int, tokens: int):
    self._port, self._tokens = port, tokens

  def ask(self, number: int, timeout_ms: int | None) -> tuple[int, str, float]:
    """Sends request `number` and streams its answer.

    Args:
      number: number that determines the prompt and the settings.
      timeout_ms: deadline of the request, or None for the server's default.

    Returns:
      The status, the text, and the seconds to the first token.
    """
    body: dict[str, Any] = {
      'messages': [
        {'role': 'user', 'content': f'Q: {number}+{7 * number}=?\nA:\n'}
      ],
      'max_tokens': 1 + number * 13 % self._tokens,
      'temperature': 0.9,
      'seed': number,
      'stream': True,
    }
    if timeout_ms:
      body['timeout_ms'] = timeout_ms
    start = time.monotonic()
    connection = http.client.HTTPConnection('127.0.0.1', self._port, 600)
    try:
      connection.request('POST', _PATH, json.dumps(body))
      response = connection.getresponse()
      if response.status != 200:
        response.read()
        return response.status, '', time.monotonic() - start
      first, text, ended = 0.0, '', False
      for line in response:
        first = first or time.monotonic() - start
        data = line.decode().removeprefix('data: ').strip()
        ended = ended or data == '[DONE]'
        if data and not ended:
          choice = json.loads(data)['choices'][0]
          text += choice['delta'].get('content', '')
      if not ended:
        raise ConnectionError('the stream ended early')
      return 200, text, first
    finally:
      connection.close()

  def memory_mib(self) -> float:
    """Returns the server's resident memory in MiB."""
    connection = http.client.HTTPConnection('127.0.0.1', self._port, 60)
    connection.request('GET', '/metrics')
    text = connection.getresponse().read().decode()
    (value,) = re.findall(r'^process_resident_memory_bytes (\S+)', text, re.M)
    return float(value) / 2**20


def _capacity(server: _Client, clients: int, duration_s: float) -> float:
  """Returns requests per second with one client per row of the batch."""
  end = time.monotonic() + duration_s

  def client(seed):
    numbers, count = random.Random(seed), 0
    while time.monotonic() < end:
      server.ask(numbers.randrange(_KINDS), _PATIENT_MS)
      count += 1
    return count

  start = time.monotonic()
  with futures.ThreadPoolExecutor(clients) as pool:
    count = sum(pool.map(client, range(clients)))
  return count / (time.monotonic() - start)


def _load(
  server: _Client, rate: float, duration_s: float, wanted: Mapping[int, str]
) -> dict[str, Any]:
  """Sends requests at random times and returns counts of their outcomes."""
  numbers, asked = random.Random(0), []
  memory = server.memory_mib()
  with futures.ThreadPoolExecutor(_CLIENTS) as pool:
    start = due = time.monotonic()
    while due < start + duration_s:
      time.sleep(max(due - time.monotonic(), 0))
      number = numbers.randrange(_KINDS)
      asked.append((number, pool.submit(server.ask, number, None)))
      due += numbers.expovariate(rate)
    replies = [(number, _reply(future)) for number, future in asked]
  answered = [(n, reply) for n, reply in replies if reply[0] == 200]
  statuses = [status for _, (status, _, _) in replies]
  first_ms = [1000 * seconds for _, (_, _, seconds) in answered] or [0.0]
  points = np.percentile(first_ms, (50, 95, 99))
  return {
    'arrivals_per_s': rate,
    'sent': len(replies),
    'answered': len(answered),
    'refused': statuses.count(429),
    'late': statuses.count(504),
    'lost': len(replies) - sum(statuses.count(x) for x in (200, 429, 504)),
    'mixed': sum(text != wanted[n] for n, (_, text, _) in answered),
    'first_token_ms': dict(zip(('p50', 'p95', 'p99'), points, strict=True)),
    'memory_mib': [memory, server.memory_mib()],
  }


def _reply(future) -> tuple[int, str, float]:
  try:
    return future.result()
  except (OSError, http.client.HTTPException) as e:
    alternate.say(f'lost: {e!r}')
    return 0, '', 0.0


def run(
  model: str,
  batch: int,
  tokens: int,
  loads: Sequence[float],
  duration_s: float,
  calibration_s: float = 15.0,
) -> dict[str, Any]:
  """Starts a server and measures it.

  Args:
    model: model to serve.
    batch: number of answers at a time.
    tokens: maximum number of tokens in an answer.
    loads: arrival rates, as multiples of the capacity.
    duration_s: duration of each load in seconds.
    calibration_s: duration of the capacity measurement in seconds.

  Returns:
    The capacity in requests per second, and the measurements of each load.
  """
  fields = {'serve.max_length': 2 * tokens + 64, 'serve.max_batch': batch}
  with served.running(model, fields) as started:
    server = _Client(started.port, tokens)
    wanted = {n: server.ask(n, _PATIENT_MS)[1] for n in range(_KINDS)}
    capacity = _capacity(server, batch, calibration_s)
    alternate.say(f'{capacity:.1f} requests/s')
    measured = [
      {'load': load, **_load(server, load * capacity, duration_s, wanted)}
      for load in loads
    ]
    return {'capacity_per_s': capacity, 'loads': measured}


def main():
  """Prints the result."""
  loads = [float(x) for x in _LOADS.value]
  chosen = _MODEL.value, _BATCH.value, _TOKENS.value, loads
  result = run(*chosen, _DURATION_S.value)
  results.show({'benchmark': 'serve_load', **result})


if __name__ == '__main__':
  needs.start(main)
