"""Fields of the objective: loss terms and positions."""

from kd.config import legal
from kd.config import schema

F = schema.Field

# Terms with an argument of the same meaning share its Field, and keep its value
# when the command line changes a term's name.
_OPEN_FRACTION = legal.Number(above=0, below=1)
_NOT_NEGATIVE = legal.Number(at_least=0)
_DECAY = legal.Number(at_least=0, below=1)
_TEMPERATURE = F(
  1.0,
  legal.Scheduled(legal.Number(above=0, at_most=1e4)),
  'softmax temperature of both models',
)
_PARTS = ('all', 'answer', 'rationale', 'sampled')
_PART = F(
  'all',
  legal.one_of(*_PARTS),
  "targets that count; sampled: the student's own",
)
_LAYER_PART = F(
  'all',
  legal.one_of(*_PARTS, 'image'),
  "targets that count; sampled: the student's own; image: the positions of "
  'images instead of targets',
)
# Arguments of every divergence, in addition to its own.
DIVERGENCE = {
  'temperature': _TEMPERATURE,
  'clip': F(0.0, _NOT_NEGATIVE, "cap on a token's loss, in nats; 0: none"),
  'part': _PART,
}
_SKEW = F(
  0.1,
  legal.Number(at_least=0, below=1),
  "weight of the other model's distribution in the mixture",
)
_POWER = legal.Number(at_least=0, at_most=100)
_FIXED_MAP = F(
  'uniform',
  legal.one_of('uniform', 'last'),
  'layers that are compared: evenly spaced, or the last ones',
)
_PAIRS = F(1, legal.Integer(1, 9999), 'pairs of layers')
_ATTENTION = {
  'map': _FIXED_MAP,
  'pairs': _PAIRS,
  'temperature': _TEMPERATURE,
  'block': F(
    512,
    legal.Integer(1, 2**20),
    'queries whose attention is in memory at a time',
  ),
  'part': _LAYER_PART,
}

TERM = schema.Choice(
  doc='A loss in nats per target token.',
  kind='loss',
  common={
    'weight': F(1.0, legal.Scheduled(_NOT_NEGATIVE), 'weight in the objective'),
  },
  default='forward_kl',
  options={
    'forward_kl': DIVERGENCE,
    'reverse_kl': DIVERGENCE,
    'jensen_shannon': {
      **DIVERGENCE,
      'beta': F(0.5, _OPEN_FRACTION, "the teacher's weight in the mixture"),
    },
    'skewed_forward_kl': {**DIVERGENCE, 'skew': _SKEW},
    'skewed_reverse_kl': {**DIVERGENCE, 'skew': _SKEW},
    'total_variation': DIVERGENCE,
    'alpha_beta': {
      **DIVERGENCE,
      'alpha': F(0.5, _POWER, "power of the teacher's probabilities"),
      'beta': F(
        0.5, _POWER, "power of the student's probabilities; not both 0"
      ),
    },
    'adaptive_kl': {
      **DIVERGENCE,
      'head_mass': F(
        0.5,
        _OPEN_FRACTION,
        "total probability of the teacher's most likely ids, the head",
      ),
    },
    'cross_entropy': {
      'label_smoothing': F(
        0.0,
        legal.Number(at_least=0, below=1),
        'probability spread over all ids',
      ),
      'z_loss': F(0.0, _NOT_NEGATIVE, 'coefficient of log(Z)^2'),
      'part': _PART,
    },
    'chunk_likelihood': {
      'divergence': F(
        'forward_kl',
        legal.one_of('forward_kl', 'reverse_kl', 'total_variation'),
        "divergence between the teacher's and the student's likelihood of "
        'each aligned chunk of text, as a choice between this chunk and any '
        'other',
      ),
      'likelihood_temperature': F(
        100.0,
        legal.Scheduled(legal.Number(above=0, at_most=1e4)),
        'T: likelihoods are raised to the power 1 / T, and the loss is '
        'multiplied by T',
      ),
      'part': _PART,
    },
    # Its distance has no unit.
    'uld': {'temperature': _TEMPERATURE, 'part': _PART},
    'hidden_states': {
      'states': F(
        'layers',
        legal.one_of('layers', 'tower', 'soft_tokens'),
        'states that are compared: those of layers, of layers of the vision '
        'tower, or the soft tokens of images; the last two need part image',
      ),
      'kind': F('mse', legal.one_of('mse', 'cosine'), 'distance'),
      'map': F(
        'uniform',
        legal.one_of('uniform', 'last', 'adaptive'),
        'layers that are compared; adaptive: the most similar ones',
      ),
      'pairs': _PAIRS,
      'remap_every': F(
        0,
        legal.COUNT,
        'updates between choices of an adaptive map; other maps: 0',
      ),
      'similarity': F(
        'states',
        legal.one_of('states', 'attention'),
        'similarity of layers for an adaptive map: of hidden states (linear '
        'CKA) or of attention maps (cosine)',
      ),
      'norm': F(True, legal.BOOLEAN, 'RMSNorm before the projection'),
      'dropout': F(
        0.0, legal.Number(at_least=0, below=1), 'dropout before the projection'
      ),
      'part': _LAYER_PART,
    },
    'attention_maps': {
      **_ATTENTION,
      'distance': F(
        'kl',
        legal.one_of('kl', 'cosine'),
        "distance of the student's maps from the teacher's; cosine: 1 minus "
        'their cosine, without a unit',
      ),
      'heads': F(
        'mean',
        legal.one_of('mean', 'each'),
        'compare the mean over heads, or each head',
      ),
    },
    'attention_relations': {
      **_ATTENTION,
      'of': F(
        ('query', 'key', 'value'),
        legal.Tuple(legal.one_of('query', 'key', 'value'), least=1),
        'vectors whose products are compared',
      ),
      'relation_heads': F(
        1,
        legal.Integer(1, 2**16),
        'number of heads in which vectors are compared; divides heads x '
        'width of each',
      ),
    },
  },
)

LOSSES = schema.Entries(
  'Loss terms by name (docs/objective.md).',
  TERM,
  default={'kl': schema.option(TERM, 'forward_kl')},
  least=1,
)

POSITIONS = schema.Section(
  'Target positions at which losses of next-token distributions are computed.',
  {
    'rule': F(
      'all',
      legal.one_of('all', 'random', 'student_entropy', 'teacher_entropy'),
      'all, a random subset, or those of highest entropy',
    ),
    'fraction': F(
      1.0,
      legal.Scheduled(legal.Number(above=0, at_most=1)),
      "fraction of each row's targets that are kept",
      formerly='share',
    ),
  },
)

_MODALITY = legal.Scheduled(_NOT_NEGATIVE)

MODALITIES = schema.Section(
  'Weights of the targets of examples with images and of text-only examples.',
  {
    'image': F(1.0, _MODALITY, 'weight of examples with images'),
    'text': F(1.0, _MODALITY, 'weight of text-only examples'),
    'balance': F(
      'weights',
      legal.one_of('weights', 'gradient_norm'),
      'weights: as given; gradient_norm: divided by the average norm of the '
      "gradient of each modality's part, and scaled to the sum of the given "
      'weights',
    ),
    'decay': F(0.99, _DECAY, 'decay of the average of these norms per update'),
  },
)

OBJECTIVE = schema.Section(
  'How the losses are computed.',
  {
    'chunk_tokens': F(
      256,
      legal.Integer(1, 2**24),
      'tokens per device whose logits are in memory at a time',
    ),
    'positions': POSITIONS,
    'modalities': MODALITIES,
  },
)
