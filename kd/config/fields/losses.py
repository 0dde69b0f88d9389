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
  "targets that count; sampled: the student's own; image: the places of images "
  'instead of targets',
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
  'which layers are compared: evenly spaced, or the last ones',
)
_PAIRS = F(1, legal.Integer(1, 9999), 'pairs of layers')
_ATTENTION = {
  'map': _FIXED_MAP,
  'pairs': _PAIRS,
  'temperature': _TEMPERATURE,
  'block': F(
    512, legal.Integer(1, 2**20), 'queries whose attention is held at a time'
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
      'beta': F(0.5, _POWER, "power of the student's; not both 0"),
    },
    'adaptive_kl': {
      **DIVERGENCE,
      'head_mass': F(
        0.5, _OPEN_FRACTION, "probability of the teacher's likeliest ids"
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
        "of the teacher's and the student's likelihood of each aligned chunk "
        'of text, each a choice of two: this chunk, or any other',
      ),
      'likelihood_temperature': F(
        100.0,
        legal.Scheduled(legal.Number(above=0, at_most=1e4)),
        'T: likelihoods are taken to the power 1 / T, and the loss times T',
      ),
      'part': _PART,
    },
    # Its distance has no unit.
    'uld': {'temperature': _TEMPERATURE, 'part': _PART},
    'hidden_states': {
      'states': F(
        'layers',
        legal.one_of('layers', 'tower', 'soft_tokens'),
        'states that are compared: of layers, of layers of the vision tower, '
        'or the soft tokens of images; the last two with part image',
      ),
      'kind': F('mse', legal.one_of('mse', 'cosine'), 'distance'),
      'map': F(
        'uniform',
        legal.one_of('uniform', 'last', 'adaptive'),
        'which layers are compared; adaptive: the most similar ones',
      ),
      'pairs': _PAIRS,
      'remap_every': F(
        0, legal.COUNT, 'updates between two choices of an adaptive map; else 0'
      ),
      'similarity': F(
        'states',
        legal.one_of('states', 'attention'),
        'how alike layers are to an adaptive map: by hidden states (linear '
        'CKA) or by attention maps (cosine)',
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
        "of the student's maps from the teacher's; cosine: 1 minus the cosine "
        'of both, without a unit',
      ),
      'heads': F(
        'mean',
        legal.one_of('mean', 'each'),
        'compare the mean over heads, or head by head',
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
        1, legal.Integer(1, 2**16), 'divides heads x width of each'
      ),
    },
  },
)

LOSSES = schema.Entries(
  'The loss terms, by a name of their own (docs/objective.md).',
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
      'all, a random choice, or those of highest entropy',
    ),
    'fraction': F(
      1.0,
      legal.Scheduled(legal.Number(above=0, at_most=1)),
      "fraction of each row's targets that is kept",
      formerly='share',
    ),
  },
)

_MODALITY = legal.Scheduled(_NOT_NEGATIVE)

MODALITIES = schema.Section(
  'Weights of the targets of examples with images, and of all others.',
  {
    'image': F(1.0, _MODALITY, 'of examples with images'),
    'text': F(1.0, _MODALITY, 'of examples of text alone'),
    'balance': F(
      'weights',
      legal.one_of('weights', 'gradient_norm'),
      'weights: as declared; gradient_norm: divided by the average norm of the '
      "gradient of each modality's part, and scaled to the declared sum",
    ),
    'decay': F(0.99, _DECAY, 'decay of the average of these norms by update'),
  },
)

OBJECTIVE = schema.Section(
  'How the losses are computed.',
  {
    'chunk_tokens': F(
      256,
      legal.Integer(1, 2**24),
      'tokens per device whose logits are held at a time',
    ),
    'positions': POSITIONS,
    'modalities': MODALITIES,
  },
)
