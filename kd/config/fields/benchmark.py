"""Fields of the benchmark of a model."""

from kd.config import legal
from kd.config import places
from kd.config import schema
from kd.config.fields import sampling

F = schema.Field

_SIZES = legal.Tuple(legal.Integer(1, 2**20), least=1)

COST = schema.Section(
  'Latency, throughput and memory of generation, on random prompts.',
  {
    'measure': F(True, legal.BOOLEAN, 'whether to measure it'),
    'batch_sizes': F((1, 4), _SIZES, 'prompts per batch'),
    'prompt_lengths': F((16, 64), _SIZES, 'tokens per prompt'),
    'new_tokens': F(32, legal.Integer(2, 2**20), 'tokens per answer'),
    'repeats': F(10, legal.Integer(1, 10**6), 'measurements of each size'),
  },
)

BENCHMARK = schema.Section(
  'Comparison of a model with its teacher, its baseline and earlier benchmarks '
  '(`--mode=benchmark`, docs/benchmark.md).',
  {
    'name': F(
      'latest',
      legal.Matching(r'[\w-][\w.-]{0,99}', 'the name of a folder'),
      'results are in <workdir>/benchmarks/NAME',
    ),
    'baseline': F(
      '',
      places.Path('model', optional=True),
      "a workdir, a folder for transformers or a GGUF file; '': the baseline "
      'that the run trained, if it did',
    ),
    'earlier': F(
      (),
      legal.Tuple(places.Path('folder')),
      'folders of earlier benchmarks, first the one to compare with',
    ),
    'reference': F(
      'auto',
      legal.one_of('auto', 'earlier', 'baseline', 'teacher', 'none'),
      'what the verdict compares with; auto: the first of `earlier`, else the '
      'baseline, else nothing',
    ),
    'metric': F(
      'auto',
      legal.Matching('.+', 'the name of a metric'),
      'what the verdict compares; auto: exact_match on sets with answers, else '
      'nll',
    ),
    'margin': F(
      0.0,
      legal.Number(at_least=0),
      "a difference that does not count as worse, in the metric's unit",
    ),
    'fail_on': F(
      'worse',
      legal.one_of('worse', 'not_distinguishable', 'nothing'),
      'verdicts that end the command with exit code 4; not_distinguishable: '
      'all but ship',
    ),
    'slices': F(
      ('length',),
      legal.Tuple(legal.Matching('.+', 'the name of a field')),
      'fields of the examples by whose values retention is reported; length: '
      'number of target tokens',
    ),
    'stride': F(
      0,
      legal.Integer(0, 2**20),
      'tokens of a document that each window scores, with the data.length - '
      'stride before them as context; 0: data.chunk_overlap',
    ),
    'answer_format': F(
      '',
      legal.Expression(optional=True),
      'answers without a match are format errors; '
      "'': those that the task calls unparsed",
    ),
    'pass_at': F(
      (),
      legal.Tuple(legal.Integer(1, 2**16)),
      'values of k for pass@k, on sets with answers',
    ),
    'samples': F(
      8, legal.Integer(1, 2**16), 'answers to each prompt for pass@k'
    ),
    'temperature': F(
      0.8, sampling.TEMPERATURE, 'softmax temperature of these answers'
    ),
    'top_p': F(
      1.0,
      legal.Number(above=0, at_most=1),
      'sample these answers from the most likely ids that together have this '
      'probability',
    ),
    'seed': F(0, legal.SEED, 'seed of these answers and of random prompts'),
    'cost': COST,
  },
)
