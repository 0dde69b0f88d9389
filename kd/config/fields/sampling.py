"""Fields of sampling, shared by several sections."""

from kd.config import legal
from kd.config import places
from kd.config import schema
from kd.quantization import schemes

F = schema.Field

# The maximum number of tokens that any model here can generate.
_TOKENS = legal.Integer(1, 2**20)

TEMPERATURE = legal.Number(at_least=0, at_most=1e4)
ROWS_AT_A_TIME = legal.Integer(1, 2**20)


def sampling(temperature: float, max_new_tokens: int) -> dict[str, F]:
  """Returns the fields of kd/sampling/requests.py's Settings.

  Args:
    temperature: default of the temperature.
    max_new_tokens: default of max_new_tokens.
  """
  return {
    'temperature': F(
      temperature, TEMPERATURE, 'softmax temperature; 0: greedy'
    ),
    'top_k': F(
      0, legal.COUNT, 'sample from the k most likely ids; 0: from all'
    ),
    'top_p': F(
      1.0,
      legal.Number(above=0, at_most=1),
      'sample from the most likely ids that together have this probability',
    ),
    'min_p': F(
      0.0,
      legal.Number(at_least=0, below=1),
      'leave out ids whose probability is below this fraction of the highest',
    ),
    'repetition_penalty': F(
      1.0,
      legal.Number(above=0, at_most=1e4),
      'above 1: ids that the prompt or answer already contains become less '
      'likely (arXiv 1909.05858)',
    ),
    'max_new_tokens': F(
      max_new_tokens, _TOKENS, 'maximum number of tokens of an answer'
    ),
  }


_SCHEME = legal.one_of('none', *schemes.SCHEMES)

GENERATE = schema.Section(
  'Answers to prompts (`--mode=generate`), and sampling of `--mode=chat`.',
  {
    'prompts': F(
      '',
      legal.TEXT,
      'files with the columns prompt or messages, as in data.mixture '
      '(docs/data.md)',
    ),
    'output': F(
      '',
      places.Path('file', optional=True),
      "file for the answers; '': <workdir>/completions.jsonl",
    ),
    **sampling(temperature=0.0, max_new_tokens=128),
    'quantize': schema.Section(
      'Low-bit weights of the student, multiplied without a copy in higher '
      'precision.',
      {
        'weights': F('none', _SCHEME, 'scheme of the matrices of layers'),
        'tables': F('none', _SCHEME, 'scheme of the embedding and the head'),
      },
    ),
    'stop_strings': F(
      (),
      legal.Tuple(legal.Matching('(?s).+', 'text of one character or more')),
      'texts that end an answer and are removed from it',
    ),
    'samples': F(1, legal.Integer(1, 2**16), 'answers per prompt'),
    'seed': F(0, legal.SEED, 'seed of the sampling'),
    'batch_size': F(
      8,
      ROWS_AT_A_TIME,
      'answers generated at a time; a multiple of mesh.data x mesh.fsdp x '
      'mesh.pipeline',
    ),
    'logprobs': F(
      False, legal.BOOLEAN, 'also write token ids and their log-probabilities'
    ),
  },
)

# Rows are kept in host memory, at up to 20 bytes per token.
_BUFFER_ROWS = legal.Integer(0, 10**6)

ROLLOUT = schema.Section(
  "Training on answers that the student samples (teacher.source='on_policy').",
  {
    'fraction': F(
      1.0,
      legal.Scheduled(legal.Number(at_least=0, at_most=1), ever_positive=True),
      "fraction of a step's rows that the student answers",
      formerly='share',
    ),
    'every': F(
      1,
      legal.POSITIVE,
      'updates between samplings; other steps take rows from the buffer',
    ),
    'buffer': F(
      0,
      _BUFFER_ROWS,
      'number of latest rows that are kept; 0 if every step samples, else at '
      'least fraction x data.batch_size',
    ),
    'importance_cap': F(
      0.0,
      legal.Number(at_least=0, at_most=1e4),
      'cap c of the importance weights min(c, p / q) of sampled tokens in '
      "terms that use logits: p is the token's probability under the current "
      'student, q that under the student that sampled it; 0: no weights',
    ),
    **sampling(temperature=1.0, max_new_tokens=128),
    'batch_size': F(
      8,
      ROWS_AT_A_TIME,
      'answers generated at a time; a multiple of mesh.data x mesh.fsdp x '
      'mesh.pipeline',
    ),
    'devices': F(
      0,
      legal.COUNT,
      'number of devices, of all processes together, that only sample while '
      'the others train, the last ones of each process; 0: sampling and '
      'training alternate',
    ),
    'staleness': F(
      0,
      legal.Integer(0, 64),
      'maximum number of updates between sampling a row and training on it; 0 '
      'if `devices` is 0, else 1 or more',
    ),
    'mesh': schema.Section(
      "Mesh of a process's devices that only sample. All 0: data only.",
      {
        name: F(0, legal.COUNT, f'devices along axis {name}; 0: 1')
        for name in ('data', 'fsdp', 'tensor', 'sequence')
      },
    ),
  },
)
