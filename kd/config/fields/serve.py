"""Fields of the server (`--mode=serve`)."""

from kd.config import legal
from kd.config import schema

F = schema.Field
# The environment variable with the API key, for servers and clients.
KEY_VARIABLE = 'KD_API_KEY'

SERVE = schema.Section(
  'The OpenAI-compatible server (`--mode=serve`, docs/serve.md).',
  {
    'host': F(
      '127.0.0.1',
      legal.Matching(r'[\w.:-]+', "an address or a host's name"),
      'address to listen on; others than loopback need an API key in '
      f'{KEY_VARIABLE}, or `without_key`',
    ),
    'port': F(8000, legal.Integer(0, 65535), 'port; 0: a free one'),
    'without_key': F(
      False,
      legal.BOOLEAN,
      'listen on an address that other machines reach without an API key',
    ),
    'dtype': F(
      'float32',
      legal.one_of('float32', 'bfloat16'),
      'data type of the computation',
    ),
    'max_batch': F(
      32,
      legal.Integer(1, 4096),
      'most answers that are decoded at a time, and of one request; a multiple '
      'of mesh.data x mesh.fsdp x mesh.pipeline',
    ),
    'max_length': F(
      2048,
      legal.Integer(2, 2**20),
      "most tokens of a prompt and its answer; at most the model's context",
    ),
    'steps': F(
      4,
      legal.Integer(1, 256),
      'tokens of each answer from one moment at which requests join or leave '
      'to the next',
    ),
    'queue': F(
      64, legal.COUNT, 'most prompts that wait; further ones get status 429'
    ),
    'timeout_ms': F(
      1000,
      legal.Integer(1, 86_400_000),
      'longest time to the first token, in ms, unless the request has another '
      'timeout_ms; a later one gets status 504',
    ),
    'max_request_bytes': F(
      2**20, legal.Integer(1, 2**30), 'most bytes of a request'
    ),
    'max_images': F(
      1,
      legal.Integer(1, 256),
      'most images of a request, crops included, if the model reads images; '
      'their programs are compiled before the server is ready',
    ),
    'max_pixels': F(
      25_000_000,
      legal.Integer(1, 89_000_000),
      'most pixels of an image, before it is resized',
    ),
    'stop_s': F(
      30.0,
      legal.Number(at_least=0, at_most=legal.SECONDS),
      'seconds that running requests have to end after SIGTERM',
    ),
    'log_prompts': F(
      False, legal.BOOLEAN, 'log prompts and answers, not only their sizes'
    ),
  },
)
