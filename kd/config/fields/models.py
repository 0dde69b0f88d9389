"""Fields of the models: `student`, `teacher`, and the other teachers."""

from kd.config import legal
from kd.config import places
from kd.config import schema
from kd.config.fields import served
from kd.models import families
from kd.models import tensors
from kd.quantization import schemes

F = schema.Field

_WEIGHTS = {'hf': 'DIR', 'gguf': 'FILE', 'workdir': 'DIR'}
_TEACHER_INIT = places.Source(('',), _WEIGHTS)
_ATTENTION = F(
  'auto',
  legal.one_of('auto', 'xla', 'splash', 'cudnn'),
  'attention kernel; auto: splash on TPU, cudnn on GPU if rows are not packed, '
  'else xla',
)
_VARIANT = F(
  '',
  legal.one_of('', *families.variants()),
  "a model size of docs/models.md; '': the size of the weights",
)

_OWN_VISION = 'none: text only; own: the tower of its variant or weights'
_VISION = F(
  'none', legal.one_of('none', 'own'), f'{_OWN_VISION} (docs/vision.md)'
)
_VISION_INIT = F(
  '',
  places.Source(('',), {'hf': 'DIR', 'gguf': 'FILE'}),
  "weights of the vision tower (GGUF: llama.cpp's mmproj); '': those of "
  '`init` (docs/vision.md)',
)

_SCHEME = legal.one_of('none', *schemes.SCHEMES)
_RULES = schema.Entries(
  'Rules for some matrices, by name; the first matching rule, by name, '
  'applies.',
  schema.Section(
    'A rule.',
    {
      'match': F(
        schema.REQUIRED,
        legal.EXPRESSION,
        'a regular expression of paths such as layers.3.mlp.gate, or of their '
        'beginning up to a dot',
      ),
      'scheme': F(schema.REQUIRED, _SCHEME, 'scheme of these matrices'),
    },
  ),
  default={},
)
_STORED = schema.Section(
  'Weights in few bits in memory (docs/quantization.md).',
  {
    'weights': F('none', _SCHEME, 'scheme of the matrices of layers'),
    'rules': _RULES,
    'measure': F(
      True,
      legal.BOOLEAN,
      'before training, measure the KL from the full-precision weights, which '
      'are also in memory during the measurement',
    ),
  },
)

_WHERE = {
  'variant': _VARIANT,
  'init': F('', _TEACHER_INIT, 'weights of the model'),
  'vision': _VISION,
  'vision_init': _VISION_INIT,
  'dtype': F('bfloat16', legal.DTYPE, 'data type of activations'),
  'param_dtype': F('bfloat16', legal.DTYPE, 'data type of the weights'),
  'attention': _ATTENTION,
  'quantize': _STORED,
  'memory': F(
    'device',
    legal.one_of('device', 'host'),
    "where the weights are kept; host: in the memory of the devices' hosts, "
    'from which they are copied layer by layer for each batch '
    '(docs/long_context.md)',
  ),
  'weight': F(
    1.0,
    legal.Number(above=0, at_most=1e6),
    'weight in the mixture of teachers, which averages probabilities; weights '
    'are normalized to sum to 1',
    formerly='share',
  ),
  'tasks': F(
    (),
    legal.Tuple(legal.TEXT),
    'tasks of `data.mixture` with examples for this teacher; (): all',
  ),
  'field_values': F(
    (),
    legal.Tuple(legal.TEXT),
    'values of `teacher.field` in the examples for this teacher; (): all '
    'examples, also those without the field',
  ),
}

OTHER_TEACHER = schema.Section('An additional teacher.', _WHERE)

_AXIS = legal.Integer(0, 2**20)


def _teacher_axis(name):
  return F(0, _AXIS, f'devices along axis {name}; 0: 1')


_ALL = legal.Integer(0)
PRUNE = schema.Section(
  'What to keep of `init` by importance (docs/pruning.md).',
  {
    'layers': F(0, _ALL, 'layers; 0: all, or those of `keep_layers`'),
    'mlp_dim': F(0, _ALL, 'channels of each MLP; 0: all'),
    'num_heads': F(
      0,
      _ALL,
      'query heads of each layer, the same number in each KV group; 0: all',
    ),
    'embed_dim': F(0, _ALL, 'channels of the embedding; 0: all'),
    'scores': F(
      '',
      places.Path('file', optional=True),
      "scores.json of `--mode=prune`, required for training; '': that mode "
      'computes the scores',
    ),
    'calibration_rows': F(
      512,
      legal.Integer(1),
      'training rows on which `--mode=prune` measures importance',
    ),
    'head_score': F(
      'both',
      legal.one_of('both', 'activation', 'pattern'),
      'importance of a query head: activation, the norm of its output; '
      'pattern, the distance of its attention map from the most similar one in '
      'its KV group; both, their product',
    ),
    'layer_pattern': F(
      'periodic',
      legal.one_of('periodic', 'any'),
      'periodic: the kinds of layers (local, global) repeat as in `init`; any: '
      'the most important layers, whatever their kinds',
    ),
  },
)

LORA = schema.Section(
  'Low-rank adapters (arXiv 2106.09685): the initial weights are frozen, and '
  'two thin matrices are trained per target.',
  {
    'rank': F(
      0,
      legal.Integer(0, 4096, {0: 'no adapters; all parameters are trained'}),
      'rank R, the width of the thin matrices',
    ),
    'alpha': F(
      16.0,
      legal.Number(above=0, at_most=1e6),
      'adapters are scaled by alpha / rank',
    ),
    'dropout': F(
      0.0,
      legal.Number(at_least=0, below=1),
      "probability of dropping an adapter's input channel in a training step; "
      'all tokens of a micro-batch share the mask',
    ),
    'targets': F(
      tensors.LAYER_MATRICES,
      legal.Tuple(legal.one_of(*tensors.LAYER_MATRICES), least=1),
      'matrices of each layer that have an adapter, by their published names',
    ),
    'rank_stabilized': F(
      False,
      legal.BOOLEAN,
      'alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732)',
    ),
    'base_dtype': F(
      'bfloat16', legal.DTYPE, 'data type of the frozen weights in memory'
    ),
    'base_scheme': F(
      'none',
      _SCHEME,
      'scheme of the frozen matrices of layers in memory; none: base_dtype',
    ),
  },
)

QUANTIZE = schema.Section(
  'Training for low precision: weights are rounded in the forward pass '
  '(docs/quantization.md).',
  {
    'weights': F('none', _SCHEME, 'scheme of the matrices of layers'),
    'tables': F('none', _SCHEME, 'scheme of the embedding, and of the head'),
    'activations': F(
      'none',
      legal.one_of('none', *schemes.INPUTS),
      'rounding of the inputs of products with the weights of layers',
    ),
    'activation_range': F(
      schemes.POSITION,
      legal.one_of(*schemes.RANGES),
      "range that maps to the scheme's largest code: position, the largest "
      'input at each position; running, a moving average over updates of the '
      'largest input of the product (docs/quantization.md)',
    ),
    'range_decay': F(
      0.99,
      legal.Number(at_least=0, below=1),
      'decay of the running average by update',
    ),
    'dither': F(
      0.0,
      legal.Number(at_least=0, at_most=1),
      'uniform noise added to the initial weights, at most this many steps of '
      'their codes, if the weights of `init` are already rounded',
    ),
    'rules': _RULES,
  },
)

STUDENT = schema.Section(
  'The model that is trained.',
  {
    'variant': _VARIANT,
    'init': F(
      'random',
      places.Source(('random', 'teacher'), _WEIGHTS),
      'initial weights',
    ),
    'vision': F(
      'none',
      legal.one_of('none', 'own', 'teacher'),
      f"{_OWN_VISION}; teacher: the teacher's tower, frozen (docs/vision.md)",
    ),
    'vision_init': _VISION_INIT,
    'keep_layers': F(
      (),
      legal.Tuple(legal.Integer(0, 9999)),
      'layers of `init` to keep, from 0, in ascending order; (): all',
    ),
    'keep_tower_layers': F(
      (),
      legal.Tuple(legal.Integer(0, 9999)),
      'layers of the vision tower of `init` or `vision_init` to keep, from 0, '
      'in ascending order; (): all',
    ),
    'prune': PRUNE,
    'layer_dropout': F(
      0.0,
      legal.Number(at_least=0, below=1),
      'probability that a row skips the last layer in training; for the '
      'layers below it, in proportion to depth',
    ),
    'lora': LORA,
    'quantize': QUANTIZE,
    'dtype': F('bfloat16', legal.DTYPE, 'data type of activations'),
    'attention': _ATTENTION,
    'remat': F(
      'dots',
      legal.one_of('none', 'dots', 'dots_offload', 'block', 'block_offload'),
      'rematerialization: none (save all activations), dots (save layer inputs '
      'and matmul outputs), block (save layer inputs only), *_offload (the '
      'same, kept in host memory)',
    ),
  },
)

TEACHER = schema.Section(
  'The model that the student learns from.',
  {
    **_WHERE,
    'source': F(
      'live',
      legal.one_of(
        *('live', 'cached', 'on_policy', 'server', 'on_policy_server', 'none'),
        formerly={'rollout': 'on_policy'},
        kind='source of targets',
      ),
      'live: it scores every batch; cached: its targets are read from '
      '`cache.folder`; on_policy: live, and the student answers some of the '
      'prompts (`rollout`); server: the model of `teacher.server` scores '
      'every batch; on_policy_server: it also scores rows that the student '
      'answered; none: no teacher',
    ),
    'server': served.SERVER,
    'tokenizer': F(
      'shared',
      legal.one_of('shared', 'own'),
      "shared: the student's; own: that of its weights "
      '(docs/other_tokenizers.md)',
    ),
    'template': F(
      '',
      legal.one_of('', 'plain', *families.chat_templates()),
      "chat template of a teacher with its own tokenizer; '': `data.template`",
    ),
    'length': F(
      0,
      legal.COUNT,
      "positions of the teacher's rows, if it has its own tokenizer or a "
      'prefix; 0: `data.length`',
    ),
    'prefix': F(
      '',
      legal.TEXT,
      'text before each example, after the BOS, that only the teacher gets: '
      'instructions, demonstrations. {column} inserts the value of the '
      "example's column, such as a solution; literal braces are doubled "
      '(docs/teacher_prompts.md)',
    ),
    'field': F(
      '',
      legal.TEXT,
      'column of the files, or feature of the tasks, that selects the '
      "teachers of an example (`field_values`); '': none",
    ),
    'others': schema.Entries(
      'Additional teachers, by name: the targets are a mixture of all '
      'teachers of the example.',
      OTHER_TEACHER,
      default={},
    ),
    'devices': F(
      0,
      _AXIS,
      'number of devices reserved for the teachers, the same number (the last '
      'ones) in each process: they score batch t + 1 while the student trains '
      'on t; 0: shared',
    ),
    'mesh': schema.Section(
      'Mesh of the teachers. All 0: as `mesh`, or on devices of their own, '
      'fsdp only.',
      {
        name: _teacher_axis(name)
        for name in ('data', 'fsdp', 'tensor', 'sequence', 'pipeline')
      },
    ),
  },
)
