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
  'temperature at which ids are drawn; loss terms that read the cache may '
  'have this temperature or 1. Other than 1: one teacher only',
)
_LOGPROBS = F(
  'uint8', legal.one_of('uint8', 'float16'), 'stored type of log-probabilities'
)
_ENTRIES = legal.Integer(1, 32767)

CACHE_METHOD = schema.Choice(
  doc='Compression of each distribution.',
  kind='cache method',
  default='top_k',
  options={
    'top_k': {
      'entries': F(64, _ENTRIES, 'most likely ids kept per token'),
      'logprobs': _LOGPROBS,
    },
    'nucleus': {
      'mass': F(
        0.98,
        legal.Number(above=0, below=1),
        'probability that the most likely ids must reach together',
      ),
      'entries': F(256, _ENTRIES, 'maximum number of ids per token'),
      'logprobs': _LOGPROBS,
    },
    'sampled': {
      'draws': F(64, _ENTRIES, 'ids drawn per token, with replacement'),
      'logprobs': _LOGPROBS,
      'temperature': _DRAWN_AT,
    },
    'stratified': {
      'entries': F(48, _ENTRIES, 'most likely ids kept per token'),
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
    'top_k': 'the most likely ids, and the total probability of the others',
    'nucleus': 'the fewest most likely ids that reach a given probability',
    'sampled': 'ids drawn from the distribution (arXiv 2503.16870)',
    'stratified': 'the most likely ids, and ids drawn from all others',
    'hidden': 'the final hidden states, from which all logits follow',
  },
)

CACHE = schema.Section(
  "The teacher's targets on disk (docs/cache.md).",
  {
    'folder': F(
      '',
      places.Path('folder', optional=True),
      "folder that --mode=cache writes and teacher.source='cached' reads",
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
  'Omission of rationales from training rows (arXiv 2405.14838).',
  {
    'drop_fraction': F(
      0.0,
      legal.Scheduled(legal.Number(at_least=0, at_most=1)),
      'fraction of each rationale to omit, from its beginning; 0 with a '
      'cached teacher',
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
      'prompt': "the user's part: text, or a list of messages",
      'completion': "the assistant's answer: text, or a list of messages",
      'messages': 'a chat',
      'text': 'a document',
      'id': 'name of the example in messages and answers',
      'weight': "factor on the loss of the example's tokens",
      'rationale': 'the beginning of completion that contains the worked steps',
      'tools': 'available tools, which only the system text can describe',
      'role': 'role of a message',
      'content': 'content of a message',
      'images': 'images for the parts {"type": "image"} of the messages',
    }.items()
  },
)

IMAGES = schema.Section(
  'Images in messages (docs/data.md).',
  {
    'per_row': F(
      1,
      legal.Integer(1, 256),
      'maximum number of images per row; examples with more are left out as '
      'too long. Each row of a batch takes the memory of this many images',
    ),
    'pan_and_scan': F(
      False,
      legal.BOOLEAN,
      "add crops of long images, as Gemma 3's processor can",
    ),
    'urls': F(False, legal.BOOLEAN, 'download images that are given by URL'),
    'features': F(
      'none',
      legal.one_of('none', 'bfloat16', 'int8'),
      'store the features that a frozen tower computes from the training '
      'images. none: the tower runs in every step; bfloat16, int8: stored '
      'type (docs/vision.md)',
    ),
    'features_folder': F(
      '~/.cache/kd/features',
      places.Path('folder'),
      'folder of these features, shared by all processes',
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
      'tuple of these, each with or without a rate: (source, rate) '
      '(docs/data.md)',
    ),
    'columns': COLUMNS,
    'held_out': F(
      0.05,
      legal.Number(at_least=0, at_most=1e9),
      'prompts of files that are reserved for evaluation.sets: a fraction, or '
      'from 1 on a number',
    ),
    'on_error': F(
      'refuse',
      legal.one_of('refuse', 'skip'),
      'invalid examples. refuse: an error; skip: they are left out, counted '
      'and listed',
    ),
    'split': F('train', legal.SPLIT, 'split of the mixture'),
    'tokenizer': F(
      '',
      places.Source(
        ('', 'bytes'),
        {'model': 'FILE', 'gguf': 'FILE', 'hf': 'DIR', 'workdir': 'DIR'},
      ),
      "'': the tokenizer of the teacher's weights; without a teacher, of the "
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
      'seed for packing',
    ),
    'examples': F(-1, legal.ALL_OR_COUNT, 'use the first n; -1: all'),
    'rates': F(
      'examples',
      legal.one_of('rows', 'examples', 'tokens'),
      "unit of the mixture's rates; tokens: target tokens",
    ),
    'refresh': F(
      False,
      legal.BOOLEAN,
      'prepare rows again, even if prepared ones can be reused',
    ),
    'rationale': RATIONALE,
    'images': IMAGES,
    'folder': F(
      '~/.cache/kd/rows',
      places.Path('folder'),
      'folder of prepared rows',
    ),
    'backend': F(
      'embedded',
      legal.one_of('embedded', 'beam'),
      'how rows are prepared. embedded: processes of this machine; beam: '
      'Apache Beam (docs/data.md). The rows do not depend on the backend',
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
