"""Fields of a teacher on an OpenAI-compatible server."""

from kd.config import legal
from kd.config import places
from kd.config import schema

F = schema.Field

_A_URL = r'https?://[^\s@?#]+'
_URL = legal.Matching(
  f'({_A_URL})?', "'', or the URL of a server, without user or query"
)
_PRICE = legal.Number(at_least=0, at_most=1e6)

BUDGET = schema.Section(
  'Limits for all runs with this `folder` together; 0: no limit. Requests, '
  'retries included, are counted before they are sent. The processes of a run '
  'have equal shares of what is left.',
  {
    'requests': F(0, legal.COUNT, 'requests'),
    'tokens': F(0, legal.COUNT, 'prompt tokens and generated tokens'),
    'money': F(
      0.0,
      legal.Number(at_least=0, at_most=1e12),
      'money, in the currency of `price`',
    ),
  },
)

PRICE = schema.Section(
  'Prices, for `budget.money`.',
  {
    'prompt': F(0.0, _PRICE, 'price per million prompt tokens'),
    'generated': F(0.0, _PRICE, 'price per million generated tokens'),
  },
)

SERVER = schema.Section(
  'The server of `teacher.source` server, and of `reasoning.model` server '
  '(docs/served_teachers.md).',
  {
    'url': F(
      '',
      _URL,
      'URL of the server, with its /v1, such as http://127.0.0.1:8000/v1',
    ),
    'replicas': F(
      (),
      legal.Tuple(
        legal.Matching(_A_URL, 'the URL of a server, without user or query')
      ),
      'URLs of more servers of the same model, which share the requests with '
      '`url`; a request that fails is repeated on the next one',
    ),
    'model': F(
      '',
      legal.TEXT,
      "name of the model on the server; '': the only one that the server lists",
    ),
    'api': F(
      'auto',
      legal.one_of('auto', 'prompt_logprobs', 'echo', 'sglang', 'llama_cpp'),
      'API for log-probabilities. prompt_logprobs: that of vLLM and kd; echo: '
      "OpenAI's completions with echo; sglang: /generate; llama_cpp: "
      '/completion, one request per position; auto: the first that the server '
      'supports',
    ),
    'key_variable': F(
      'KD_TEACHER_KEY',
      legal.Matching(r'[A-Za-z_]\w*', 'the name of an environment variable'),
      'environment variable with the API key, if the server needs one',
    ),
    'folder': F(
      '',
      places.Path(
        'folder',
        optional=True,
        local_because='a reply that was paid for is kept before the next '
        'request',
      ),
      "folder for the counts of `budget`, the model's identity, and the "
      'replies; cached replies are not requested again',
    ),
    'top_k': F(
      20,
      legal.Integer(1, 32767),
      'most likely ids per token in training; --mode=cache requests '
      '`cache.method.entries`',
    ),
    'concurrency': F(
      8, legal.Integer(1, 1024), 'requests at a time, in each process'
    ),
    'attempts': F(6, legal.Integer(1, 1000), 'attempts per request'),
    'wait_s': F(
      1.0,
      legal.Number(at_least=0, at_most=legal.SECONDS),
      'seconds before the second attempt, if the server gives none; doubled '
      'each time, times a random number from 0.5 to 1',
    ),
    'timeout_s': F(120.0, legal.DURATION, 'seconds to wait for a reply'),
    'check_every': F(
      100,
      legal.POSITIVE,
      'requests between checks that the model is still the same',
    ),
    'tolerance': F(
      0.05,
      legal.Number(above=0, at_most=100),
      'nats per token by which log-probabilities of the same text may differ '
      'before the model counts as another one',
    ),
    'fingerprint': F(
      'same',
      legal.one_of('same', 'any'),
      'same: a reply with another `system_fingerprint` ends the run; any: it '
      'does not, for endpoints with several builds of one model',
    ),
    'budget': BUDGET,
    'price': PRICE,
  },
)
