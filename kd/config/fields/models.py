"""Fields of the models: `student`, `teacher`, and the other teachers."""

from kd.config import legal
from kd.config import places
from kd.config import schema
from kd.models import families

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

_WHERE = {
  'variant': _VARIANT,
  'init': F('', _TEACHER_INIT, 'where its weights are'),
  'dtype': F('bfloat16', legal.DTYPE, 'data type of activations'),
  'param_dtype': F('bfloat16', legal.DTYPE, 'data type of its weights'),
  'attention': _ATTENTION,
  'weight': F(
    1.0,
    legal.Number(above=0, at_most=1e6),
    'weight in the mixture of teachers, which averages probabilities; the '
    'weights are scaled to sum to 1',
    formerly='share',
  ),
}

OTHER_TEACHER = schema.Section('One more teacher.', _WHERE)

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
      0, _ALL, 'query heads of each layer, as many of each KV group; 0: all'
    ),
    'embed_dim': F(0, _ALL, 'channels of the embedding; 0: all'),
    'scores': F(
      '',
      places.Path('file', optional=True),
      "scores.json of `--mode=prune`, which training needs; '': that mode "
      'computes them',
    ),
    'calibration_rows': F(
      512,
      legal.Integer(1),
      'training rows that `--mode=prune` measures the model on',
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

STUDENT = schema.Section(
  'The model that is trained.',
  {
    'variant': _VARIANT,
    'init': F(
      'random',
      places.Source(('random', 'teacher'), _WEIGHTS),
      'its first weights',
    ),
    'keep_layers': F(
      (),
      legal.Tuple(legal.Integer(0, 9999)),
      'layers of init to keep, from 0, in rising order; (): all',
    ),
    'prune': PRUNE,
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
        'live', 'cached', 'on_policy', 'none', formerly={'rollout': 'on_policy'}
      ),
      'live: scores every batch; cached: its targets are read from '
      '`cache.folder`; on_policy: live, and the student answers some of the '
      'prompts (`rollout`); none: no teacher',
    ),
    'others': schema.Entries(
      'More teachers, by name: the targets are a mixture of all.',
      OTHER_TEACHER,
      default={},
    ),
    'devices': F(
      0,
      _AXIS,
      'devices reserved for the teachers, the last ones: they score batch '
      't + 1 while the student trains on t; 0: shared. With several processes: '
      '0',
    ),
    'mesh': schema.Section(
      'Mesh of the teachers. All 0: as `mesh`, or on devices of their own fsdp '
      'alone.',
      {
        name: _teacher_axis(name)
        for name in ('data', 'fsdp', 'tensor', 'sequence')
      },
    ),
  },
)
