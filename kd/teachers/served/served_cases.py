"""A small server for tests: all APIs, a known model and planned faults."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
from http import server as http_server
import itertools
import json
import threading
import time
from typing import Any

import numpy as np

from kd.input_pipeline import tokenizers

V = 263


def tokenizer() -> tokenizers.Tokenizer:
  """Returns the byte tokenizer, which has V ids."""
  return tokenizers.load('bytes')


def logprobs(seed: int) -> np.ndarray:
  """Returns a bigram model: log-probabilities [V, V] of the next id."""
  logits = 3 * np.random.default_rng(seed).normal(size=(V, V))
  return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@dataclasses.dataclass
class Server:
  """Settings of the server, which a test may change while it runs.

  Attributes:
    apis: its APIs, among 'prompt_logprobs', 'echo', 'sglang', 'llama_cpp'.
    model: its log-probabilities, from `logprobs`.
    most: maximum number of likeliest ids that it returns.
    zero: whether it accepts max_tokens 0.
    shift: number added to ids before decoding, as if of another tokenizer.
    owner: `owned_by` in its list of models.
    write: function from the prompt and a seed to an answer's text and finish
      reason, or to an error message.
    at_once: maximum number of answers per request; more are refused.
    fingerprint: `system_fingerprint` of its answers.
    fault: function from the number of a request, from 0, to the status and
      headers to fail with, seconds to wait, 'cut' for half of a reply, or None.
    asked: the requests so far, in order.
    url: URL of the server.
  """

  apis: tuple[str, ...] = ('prompt_logprobs',)
  model: np.ndarray = dataclasses.field(default_factory=lambda: logprobs(0))
  most: int = 20
  zero: bool = True
  shift: int = 0
  owner: str = 'someone'
  write: Callable[[str, int], Any] = lambda prompt, seed: (f'{seed}', 'stop')
  at_once: int = 8
  fingerprint: str = 'first'
  fault: Callable[[int], Any] = lambda number: None
  asked: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  url: str = ''

  def __post_init__(self):
    self._words = tokenizer()

  def text(self, index: int) -> str:
    """Returns the text of an id in replies."""
    index = (index + self.shift) % V
    return self._words.decode([index]) or self._words.text_of(index)

  def reply(self, path: str, body: dict[str, Any]) -> Any:
    """Returns the reply to a request; an error text or None to refuse it."""
    if path == '/v1/completions' and not isinstance(body['prompt'], str):
      return self._completion(body)
    if path in ('/v1/completions', '/v1/chat/completions'):
      return self._answers(body)
    if path == '/generate' and 'sglang' in self.apis:
      ids, most = body['input_ids'], body['top_logprobs_num']
      told = [self._best(i, most) for i in ids[:-1]]
      entry = lambda before, i: [self.model[before, i], i, self.text(i)]
      pairs = [*itertools.pairwise(ids)]
      own = [[None, ids[0], None], *(entry(*pair) for pair in pairs)]
      likeliest = [
        [entry(i, j) for j in best]
        for i, best in zip(ids[:-1], told, strict=True)
      ]
      meta = {'input_token_logprobs': own}
      return {'meta_info': meta | {'input_top_logprobs': [None, *likeliest]}}
    if path == '/completion' and 'llama_cpp' in self.apis:
      before = body['prompt'][-1]
      ((drawn, _),) = body['logit_bias']
      entry = lambda i: {
        'id': i,
        'token': self.text(i),
        'logprob': self.model[before, i],
      }
      likeliest = [entry(i) for i in self._best(before, body['n_probs'])]
      told = entry(drawn) | {'top_logprobs': likeliest}
      return {'completion_probabilities': [told]}
    return None

  def _answers(self, body):
    said = body.get('messages') or [{'content': body['prompt']}]
    prompt = ' '.join(message['content'] for message in said)
    if body['n'] > self.at_once:
      return f'n is {body["n"]}, and at most {self.at_once}'
    choices = []
    for number in range(body['n']):
      written = self.write(prompt, body['seed'] + number)
      if isinstance(written, str):
        return written
      text, finish = written
      said = {'message': {'content': text}} if 'messages' in body else {}
      choices.append({'text': text, 'finish_reason': finish, **said})
    usage = {'prompt_tokens': len(prompt), 'completion_tokens': len(choices)}
    return {
      'model': 'writer',
      'system_fingerprint': self.fingerprint,
      'choices': choices,
      'usage': usage,
    }

  def _best(self, before, most):
    return [int(i) for i in np.argsort(-self.model[before])[:most]]

  def _completion(self, body):
    ids = body['prompt']
    most = body.get('prompt_logprobs', body.get('logprobs'))
    if not (self.zero or body['max_tokens']) or most > self.most:
      return None
    choice = {'text': ''}
    told = [
      {j: float(self.model[i, j]) for j in (*self._best(i, most), following)}
      for i, following in itertools.pairwise(ids)
    ]
    if 'prompt_logprobs' in body and 'prompt_logprobs' in self.apis:
      choice['prompt_logprobs'] = [None] + [
        {
          str(j): {'logprob': x, 'decoded_token': self.text(j)}
          for j, x in entries.items()
        }
        for entries in told
      ]
    if 'logprobs' in body and 'echo' in self.apis:
      own = [float(self.model[pair]) for pair in itertools.pairwise(ids)]
      choice['logprobs'] = {
        'tokens': [self.text(i) for i in ids],
        'token_logprobs': [None, *own],
        'top_logprobs': [None]
        + [{self.text(j): x for j, x in one.items()} for one in told],
      }
    return {
      'model': 'bigrams',
      'system_fingerprint': self.fingerprint,
      'choices': [choice],
    }


@contextlib.contextmanager
def running(**fields: Any) -> Iterator[Server]:
  """Runs a server in this process; see Server for `fields`."""
  server = Server(**fields)

  class Handler(http_server.BaseHTTPRequestHandler):
    def do_GET(self):
      model = {'id': 'bigrams', 'owned_by': server.owner}
      self._send(200, {'data': [model]}, {})

    def do_POST(self):
      body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
      number = len(server.asked)
      server.asked.append({'path': self.path, **body})
      fault = server.fault(number)
      if isinstance(fault, float):
        time.sleep(fault)
      elif isinstance(fault, tuple):
        return self._send(fault[0], {'error': {'message': 'planned'}}, fault[1])
      reply = server.reply(self.path, body)
      if reply is None or isinstance(reply, str):
        error = {'message': reply or 'not offered'}
        return self._send(400, {'error': error}, {})
      return self._send(200, reply, {}, half=fault == 'cut')

    def _send(self, status, value, headers, half=False):
      data = json.dumps(value).encode()
      self.send_response(status)
      for name, text in {'Content-Length': len(data), **headers}.items():
        self.send_header(name, str(text))
      self.end_headers()
      with contextlib.suppress(OSError):  # A client may have given up.
        self.wfile.write(data[: len(data) // 2] if half else data)

    def log_message(self, *unused):
      del unused

  with http_server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as http:
    server.url = f'http://127.0.0.1:{http.server_port}/v1'
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
      yield server
    finally:
      http.shutdown()
      thread.join()
