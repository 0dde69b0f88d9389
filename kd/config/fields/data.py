"""Fields of the data and of the cache of teacher targets."""

from kd.config import legal
from kd.config import places
from kd.config import schema
from kd.config.fields import sampling
from kd.models import families

F = schema.Field

_DRAWN_AT = F(
  1.0,
  legal.Number(at_least=0.1, at_most=100),
  'temperature at which ids are drawn, which terms of a run that reads them '
  'may have in addition to 1; one teacher',
)
_LOGPROBS = F(
  'uint8', legal.one_of('uint8', 'float16'), 'stored type of log-probabilities'
)
_ENTRIES = legal.Integer(1, 32767)

CACHE_METHOD = schema.Choice(
  doc='What is kept of each distribution.',
  kind='cache method',
  default='top_k',
  options={
    'top_k': {
      'entries': F(64, _ENTRIES, 'likeliest ids that are kept per token'),
      'logprobs': _LOGPROBS,
    },
    'nucleus': {
      'mass': F(
        0.98,
        legal.Number(above=0, below=1),
        'probability that the likeliest ids must reach together',
      ),
      'entries': F(256, _ENTRIES, 'most ids per token'),
      'logprobs': _LOGPROBS,
    },
    'sampled': {
      'draws': F(64, _ENTRIES, 'ids drawn per token, with replacement'),
      'logprobs': _LOGPROBS,
      'temperature': _DRAWN_AT,
    },
    'stratified': {
      'entries': F(48, _ENTRIES, 'likeliest ids that are kept per token'),
      'draws': F(16, _ENTRIES, 'ids drawn from all others, with replacement'),
      'logprobs': _LOGPROBS,
      'temperature': _DRAWN_AT,
    },
    'hidden': {
      'values': F(
        'bfloat16', legal.one_of('bfloat16', 'int8'), 'stored type of values'
      ),
    },
  },
  docs={
    'top_k': 'the likeliest ids, and the probability of all others as one',
    'nucleus': 'the fewest likeliest ids with a given probability',
    'sampled': 'ids drawn from the distribution (arXiv 2503.16870)',
    'stratified': 'the likeliest ids, and ids drawn from all others',
    'hidden': 'the final hidden states, from which all logits follow',
  },
)

CACHE = schema.Section(
  "The teacher's targets on disk (docs/cache.md).",
  {
    'folder': F(
      '',
      places.Path('folder', optional=True, in_bucket=True),
      "what --mode=cache writes and teacher.source='cached' reads",
    ),
    'method': CACHE_METHOD,
    'batch_size': F(
      8, sampling.ROWS_AT_A_TIME, 'rows scored at a time, over all devices'
    ),
    'shard_rows': F(1024, legal.Integer(1, 2**24), 'rows per file'),
    'verify': F(
      0, legal.COUNT, 'random rows to score again and compare with the cache'
    ),
    'repair': F(False, legal.BOOLEAN, 'write damaged files again'),
  },
)

RATIONALE = schema.Section(
  'Rationales that training rows leave out (arXiv 2405.14838).',
  {
    'drop_fraction': F(
      0.0,
      legal.Scheduled(legal.Number(at_least=0, at_most=1)),
      'fraction of each rationale, from its beginning; 0 with a cached teacher',
      formerly='dropped',
    ),
  },
)

READ = schema.Section(
  'Reading from disks and servers that fail.',
  {
    'attempts': F(5, legal.Integer(1, 1000), 'attempts per read'),
    'wait_s': F(
      1.0,
      legal.Number(at_least=0, at_most=legal.SECONDS),
      'seconds before the second attempt; doubled each time',
    ),
    'timeout_s': F(600.0, legal.DURATION, 'seconds that a step waits for rows'),
  },
)

COLUMNS = schema.Section(
  "Names of files' columns (docs/data.md).",
  {
    name: F(name, legal.TEXT, doc)
    for name, doc in {
      'prompt': 'what the user says: text, or a list of messages',
      'completion': 'what the assistant answers: text, or a list of messages',
      'messages': 'a chat',
      'text': 'a document',
      'id': 'names the example in messages and answers',
      'weight': "a factor of the loss of the example's tokens",
      'rationale': 'the beginning of completion that is the worked steps',
      'tools': 'tools that there are, which only the system text can describe',
      'role': 'in each message: who says it',
      'content': 'in each message: what is said',
      'images': 'images of the parts {"type": "image"} of the messages',
    }.items()
  },
)

IMAGES = schema.Section(
  'Images in messages (docs/data.md).',
  {
    'per_row': F(
      1,
      legal.Integer(1, 256),
      'images per row at most; examples with more are left out as too long. '
      'Each row of a batch takes the memory of this many',
    ),
    'pan_and_scan': F(
      False,
      legal.BOOLEAN,
      "add crops of long images, as Gemma 3's processor can",
    ),
    'urls': F(False, legal.BOOLEAN, 'download images that are named by URL'),
    'features': F(
      'none',
      legal.one_of('none', 'bfloat16', 'int8'),
      'keep the features that a frozen tower computes from the training '
      'images. none: it runs in every step; bfloat16, int8: their type '
      '(docs/vision.md)',
    ),
    'features_folder': F(
      '~/.cache/kd/features',
      places.Path('folder', in_bucket=True),
      'of these features; all processes share it',
    ),
  },
)

DATA = schema.Section(
  'Rows of tokens.',
  {
    'module': F(
      'kd.data.mixtures',
      legal.Matching(
        r'[^\W\d]\w*(\.[^\W\d]\w*)*',
        "a Python module's name, such as kd.data.mixtures",
        formerly={
          'data.mixtures': 'kd.data.mixtures',
          'data.traces': 'kd.data.traces',
        },
      ),
      'Python module that registers the mixture with seqio',
    ),
    'mixture': F(
      '',
      places.Mixture(),
      'a seqio task or mixture, or files: a path, pattern or folder; or a '
      'tuple of these, each alone or as (source, rate) (docs/data.md)',
    ),
    'columns': COLUMNS,
    'held_out': F(
      0.05,
      legal.Number(at_least=0, at_most=1e9),
      "prompts of files that evaluation.sets read and training doesn't: a "
      'fraction, or from 1 on a number',
    ),
    'on_error': F(
      'refuse',
      legal.one_of('refuse', 'skip'),
      'wrong examples. refuse: an error; skip: they are left out, counted and '
      'listed',
    ),
    'split': F('train', legal.SPLIT, 'its split'),
    'tokenizer': F(
      '',
      places.Source(
        ('', 'bytes'),
        {'model': 'FILE', 'gguf': 'FILE', 'hf': 'DIR', 'workdir': 'DIR'},
      ),
      "'': the tokenizer of the teacher's weights, without a teacher the "
      "student's",
    ),
    'template': F(
      'plain',
      legal.one_of(
        'plain', *families.chat_templates(), kind=families.CHAT_TEMPLATE
      ),
      'plain: BOS, text, EOS; others: chat turns of that family (docs/data.md)',
    ),
    'batch_size': F(
      8, legal.Integer(1, 2**20), 'rows per step, over all devices'
    ),
    'length': F(256, legal.Integer(1, 2**20), 'tokens per row'),
    'long': F(
      'chunk',
      legal.one_of('chunk', 'drop', 'refuse'),
      'examples longer than a row. chunk: documents are divided, chats left '
      'out; drop: both are left out; refuse: an error',
    ),
    'chunk_overlap': F(
      0,
      legal.Integer(0, 2**20),
      'tokens that a chunk of a document repeats as context, with weight 0',
    ),
    'pack': F(True, legal.BOOLEAN, 'put several examples in a row'),
    'seed': F(
      -1,
      legal.Integer(0, legal.SEEDS, {-1: 'as seed'}),
      'which examples share a row',
    ),
    'examples': F(-1, legal.ALL_OR_COUNT, 'use the first n; -1: all'),
    'rates': F(
      'examples',
      legal.one_of('rows', 'examples', 'tokens'),
      "what a mixture's rates are shares of; tokens: target tokens",
    ),
    'refresh': F(
      False,
      legal.BOOLEAN,
      'prepare rows again, even if there are some to reuse',
    ),
    'rationale': RATIONALE,
    'images': IMAGES,
    'folder': F(
      '~/.cache/kd/rows',
      places.Path('folder', in_bucket=True),
      'where prepared rows are kept',
    ),
    'backend': F(
      'embedded',
      legal.one_of('embedded', 'beam'),
      'prepares rows. embedded: processes of this machine; beam: Apache Beam '
      '(docs/data.md). The rows depend on none of this',
    ),
    'workers': F(
      0,
      legal.Integer(1, 1024, {0: 'one on each core'}),
      'processes of the embedded backend',
    ),
    'beam_args': F(
      (),
      legal.Tuple(legal.TEXT),
      "arguments of Beam's pipeline, such as '--runner=DataflowRunner'",
    ),
    'read': READ,
  },
)
