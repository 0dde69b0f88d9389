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
      'listen without an API key on an address that other machines can reach',
    ),
    'dtype': F(
      'float32',
      legal.one_of('float32', 'bfloat16'),
      'data type of the computation',
    ),
    'max_batch': F(
      32,
      legal.Integer(1, 4096),
      'maximum number of answers decoded at a time, and per request; a '
      'multiple of mesh.data x mesh.fsdp x mesh.pipeline',
    ),
    'max_length': F(
      2048,
      legal.Integer(2, 2**20),
      'maximum number of tokens of a prompt and its answer together; at most '
      "the model's context",
    ),
    'steps': F(
      4,
      legal.Integer(1, 256),
      'decoding steps between admissions of requests',
    ),
    'queue': F(
      64,
      legal.COUNT,
      'maximum number of waiting prompts; others get status 429',
    ),
    'timeout_ms': F(
      1000,
      legal.Integer(1, 86_400_000),
      'maximum time to the first token, in ms, unless the request sets '
      'timeout_ms; after it, a request gets status 504',
    ),
    'max_request_bytes': F(
      2**20, legal.Integer(1, 2**30), 'maximum number of bytes of a request'
    ),
    'max_images': F(
      1,
      legal.Integer(1, 256),
      'maximum number of images of a request, crops included, if the model '
      'reads images; their programs are compiled before the server is ready',
    ),
    'max_pixels': F(
      25_000_000,
      legal.Integer(1, 89_000_000),
      'maximum number of pixels of an image, before resizing',
    ),
    'stop_s': F(
      30.0,
      legal.Number(at_least=0, at_most=legal.SECONDS),
      'seconds for running requests to finish after SIGTERM',
    ),
    'log_prompts': F(
      False,
      legal.BOOLEAN,
      'log the text of prompts and answers, not only their sizes',
    ),
  },
)
