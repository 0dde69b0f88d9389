"""Fields of evaluation, export and planning."""

from kd.config import legal
from kd.config import places
from kd.config import schema
from kd.config.fields import sampling

F = schema.Field

_LENGTH = legal.Integer(1, 2**20)
_EXAMPLES = legal.Integer(0, also={-1: 'all'})

EVALUATION_SET = schema.Section(
  'A held-out set.',
  {
    'mixture': F(
      '',
      places.Mixture(),
      "as data.mixture; '': data.mixture, with the prompts that data.held_out "
      'reserves',
    ),
    'split': F('validation', legal.SPLIT, 'split of the mixture'),
    'examples': F(64, _EXAMPLES, 'examples to score, one per row; -1: all'),
    'answers': F(
      0, _EXAMPLES, 'examples to answer by generation, for exact match; -1: all'
    ),
  },
)

BEST = schema.Section(
  'Selection of the best checkpoint.',
  {
    'set': F(
      '', legal.TEXT, "a set of evaluation.sets; '': the first one by name"
    ),
    'metric': F(
      'nll',
      legal.Matching('.+', 'the name of a metric'),
      'metric of the set: of likelihood, or, if it has answers, of its tasks',
    ),
    'direction': F(
      'auto',
      legal.one_of('auto', 'min', 'max'),
      'whether low or high values are good; auto: min for nll, perplexity and '
      'kl, as declared by the task for its own metrics, else max',
    ),
  },
)
STOP = schema.Section(
  'Early end of training (docs/training.md).',
  {
    **BEST.children,
    'patience': F(
      0,
      legal.COUNT,
      'consecutive evaluations without improvement that end the run; 0: no '
      'early end',
    ),
    'min_delta': F(
      0.0,
      legal.Number(at_least=0),
      "minimum improvement that counts, in the metric's unit",
    ),
  },
)
EVALUATION = schema.Section(
  'Evaluation on held-out sets.',
  {
    'every': F(
      0,
      legal.COUNT,
      'steps between evaluations; 0: only before and after training',
    ),
    'baseline': F(
      False, legal.BOOLEAN, 'also train the student with cross-entropy only'
    ),
    'batch_size': F(8, sampling.ROWS_AT_A_TIME, 'rows or prompts per batch'),
    'max_new_tokens': F(128, _LENGTH, 'maximum number of tokens of an answer'),
    'token_kl': F(
      64,
      legal.COUNT,
      'answers of each task with a record of the KL to a live teacher at each '
      'token (docs/board.md); 0: none',
    ),
    'params': F(
      'last',
      legal.one_of('last', 'ema'),
      'evaluate the parameters after the last update, or their average '
      '(`ema.decay`)',
    ),
    'metrics': F(
      (),
      legal.Tuple(legal.one_of(kind='metric')),
      "metrics of answers in addition to the tasks' own (docs/extend.md)",
    ),
    'best': BEST,
    'stop': STOP,
    'sets': schema.Entries(
      'Held-out sets, by name.',
      EVALUATION_SET,
      default={'held_out': schema.defaults(EVALUATION_SET)},
    ),
  },
)

GGUF_TYPES = ('F32', 'F16', 'BF16', 'Q8_0', 'Q4_0')
EXPORT = schema.Section(
  'Weights for other systems (`--mode=export`).',
  {
    'formats': F(
      ('hf',),
      legal.Tuple(legal.one_of('hf', 'gguf', 'peft'), least=1),
      'hf: a folder for transformers and vLLM; gguf: files for llama.cpp; '
      'peft: only the adapters of student.lora',
    ),
    'dtype': F('bfloat16', legal.DTYPE, 'data type of the weights in hf'),
    'gguf_type': F(
      ('Q8_0',),
      legal.Tuple(legal.one_of(*GGUF_TYPES), least=1),
      'types of the weights in gguf; one file per type',
    ),
    'gguf_embedding_type': F(
      'auto',
      legal.one_of('auto', *GGUF_TYPES),
      'type of the embedding in gguf; auto: Q8_0 with Q4_0 weights, else that '
      'of the weights',
    ),
    'measure': F(
      False,
      legal.BOOLEAN,
      'evaluate the weights before and after rounding to each gguf_type, on '
      'evaluation.sets',
    ),
    'checkpoint': F(
      'last', legal.one_of('last', 'best'), 'which checkpoint to export'
    ),
    'params': F(
      'last',
      legal.one_of('last', 'ema'),
      "the checkpoint's parameters after its last update, or their average "
      '(`ema.decay`); other modes use it too',
    ),
  },
)

PLAN = schema.Section(
  'Memory and time of a run on a TPU slice (`--mode=plan`).',
  {
    'topology': F(
      '',
      legal.Matching(r'|[\w:-]{1,40}', 'such as v5e:4x4 or v5p:2x2x2'),
      'v4, v5e, v5p or v6e, a colon, and chips along each axis of the slice; '
      "or Cloud's accelerator type, such as v5litepod-8",
    ),
    'lengths': F(
      (), legal.Tuple(_LENGTH), 'tokens per row to plan for; (): data.length'
    ),
    'prompt_length': F(512, _LENGTH, 'tokens per prompt in decoding'),
    'price': F(
      0.0,
      legal.Number(at_least=0, at_most=1e6),
      'US dollars per chip-hour; 0: no cost is shown',
    ),
    'mfu': F(
      0.45,
      legal.Number(above=0, at_most=1),
      'model FLOP utilization to expect; the roofline is shown too',
    ),
    'compile': F(
      True,
      legal.BOOLEAN,
      'False: estimate without the compiler, in a few seconds',
    ),
    'search': F(
      False, legal.BOOLEAN, 'also search mesh, micro-batches and remat'
    ),
    'compiled': F(
      3, legal.Integer(1, 1000), 'candidates of a search to compile'
    ),
    'folder': F(
      '~/.cache/kd/plans', places.Path('folder'), 'folder of compiler results'
    ),
  },
)
