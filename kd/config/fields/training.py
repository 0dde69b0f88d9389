"""Fields of training: optimizer, devices, processes, checkpoints, logs."""

from kd.config import legal
from kd.config import schema

F = schema.Field

_NOT_NEGATIVE = legal.Number(at_least=0)
_DECAY = legal.Number(at_least=0, below=1)

_WEIGHT_DECAY = legal.Number(at_least=0, at_most=1e6)

GROUP = schema.Section(
  'The parameters of one group.',
  {
    'match': F(
      schema.REQUIRED,
      legal.EXPRESSION,
      'matches a path such as layers.3.mlp.gate, or its beginning up to a dot',
    ),
    'rate': F(
      1.0, legal.Scheduled(_NOT_NEGATIVE), 'factor on the learning rate'
    ),
    'weight_decay': F(
      -1.0,
      legal.Number(at_least=0, at_most=1e6, also={-1.0: "the optimizer's"}),
      "weight decay of its matrices, never of norms; -1: the optimizer's value",
    ),
    'first_step': F(
      0,
      legal.COUNT,
      'updates before the first one that changes these parameters; their '
      'moments are updated from the start',
    ),
    'frozen': F(
      False, legal.BOOLEAN, 'not trained: no gradient and no optimizer state'
    ),
  },
)

OPTIMIZER = schema.Choice(
  doc='The optimizer.',
  kind='optimizer',
  default='adamw',
  common={
    'lr': F(
      schema.REQUIRED,
      legal.Scheduled(_NOT_NEGATIVE, constant=False),
      'learning rate per update, a schedule',
    ),
    'clip_norm': F(
      1.0, _NOT_NEGATIVE, 'maximum global gradient norm; 0: no limit'
    ),
    'micro_batches': F(
      1, legal.Integer(1, 2**20), 'parts of a batch; gradients are summed'
    ),
    'state_memory': F(
      'device',
      legal.one_of('device', 'host'),
      'where the optimizer state is kept between updates',
    ),
    'layer_decay': F(
      1.0,
      legal.Number(above=0, at_most=1),
      'factor on the learning rate of a layer for each layer above it; the '
      'input embedding counts as below all layers',
    ),
    'groups': schema.Entries(
      'Parameters with settings of their own, by name; the first matching '
      'group, by name, applies (docs/training.md).',
      GROUP,
      default={},
    ),
  },
  options={
    'adamw': {
      'weight_decay': F(
        0.01,
        _WEIGHT_DECAY,
        'on matrices, never on norms; times the learning rate',
      ),
      'b1': F(0.9, _DECAY, "decay of the gradient's mean"),
      'b2': F(0.99, _DECAY, "decay of the gradient's square"),
      'epsilon': F(1e-8, legal.Number(above=0), "added to the square's root"),
    },
    'adafactor': {
      'weight_decay': F(0.0, _WEIGHT_DECAY, 'on matrices, never on norms'),
      'decay_rate': F(
        0.8,
        legal.Number(above=0, at_most=1),
        "decay of the square's average at step t is 1 - t ** -decay_rate",
      ),
      'clip_update': F(
        1.0, legal.Number(above=0), 'largest root mean square of an update'
      ),
      'scale_by_parameter': F(
        True, legal.BOOLEAN, "scale updates by a parameter's root mean square"
      ),
    },
    'lion': {
      'weight_decay': F(
        0.1,
        _WEIGHT_DECAY,
        'on matrices, never on norms; times the learning rate',
      ),
      'b1': F(0.9, _DECAY, 'weight of the mean in the signed update'),
      'b2': F(0.99, _DECAY, "decay of the gradient's mean"),
    },
    'muon': {
      'weight_decay': F(
        0.1,
        _WEIGHT_DECAY,
        'on matrices, never on norms; times the learning rate',
      ),
      'momentum': F(0.95, _DECAY, "decay of the gradient's mean, of matrices"),
      'nesterov': F(True, legal.BOOLEAN, "Nesterov's momentum"),
      'iterations': F(
        5, legal.Integer(1, 100), 'number of Newton-Schulz iterations'
      ),
      'rms': F(
        0.2,
        legal.Number(above=0),
        "root mean square of a matrix's update, relative to the learning rate; "
        "0.2 is AdamW's",
      ),
      'b1': F(0.9, _DECAY, "AdamW's decay of the gradient's mean"),
      'b2': F(0.95, _DECAY, "AdamW's decay of the gradient's square"),
      'epsilon': F(1e-8, legal.Number(above=0), "AdamW's"),
    },
    'sgd': {
      'weight_decay': F(
        0.0,
        _WEIGHT_DECAY,
        'on matrices, never on norms; times the learning rate, and not in the '
        'momentum',
      ),
      'momentum': F(0.9, _DECAY, 'decay of the sum of gradients; 0: none'),
      'nesterov': F(False, legal.BOOLEAN, "Nesterov's momentum"),
    },
  },
  docs={
    'adamw': 'AdamW (arXiv 1711.05101), with usual values for language models',
    'adafactor': 'Adafactor (arXiv 1804.04235), with the settings of T5',
    'lion': 'Lion (arXiv 2302.06675); its learning rate is a third to a tenth '
    "of AdamW's",
    'muon': 'Muon (arXiv 2502.16982) for the matrices of layers, AdamW for '
    'embeddings, norms and parameters of loss terms',
    'sgd': 'stochastic gradient descent',
  },
)

EMA = schema.Section(
  'An exponential moving average of the trained parameters.',
  {
    'decay': F(
      0.0,
      _DECAY,
      'decay of the average, at update t min(decay, (1 + t) / (10 + t)); 0: '
      'no average',
    ),
  },
)

_AXIS = legal.Integer(1, 2**20, {-1: 'all remaining devices'})

MESH = schema.Section(
  'Devices along each axis; their product is the number of devices.',
  {
    'data': F(1, _AXIS, 'devices that split rows, together with fsdp'),
    'fsdp': F(-1, _AXIS, 'devices that split parameters and optimizer state'),
    'tensor': F(1, _AXIS, 'devices that split heads and MLP width'),
    'sequence': F(
      1, _AXIS, "devices that split each row's positions; divides data.length"
    ),
    'pipeline': F(
      1,
      _AXIS,
      'stages into which layers are split; outside the layers, rows are '
      'split; divides the number of periods of layers',
    ),
    'pipeline_micro_batches': F(
      0,
      legal.COUNT,
      'parts of a micro-batch that pass through the stages in succession; a '
      'multiple of `pipeline`; 0: up to 4 per stage',
    ),
  },
)

PROCESSES = schema.Section(
  'The processes of one run. Fields that are not set are read from '
  '$JAX_COORDINATOR_ADDRESS, $JAX_NUM_PROCESSES and $JAX_PROCESS_ID, or on a '
  'Cloud TPU from its metadata.',
  {
    'coordinator': F(
      '',
      legal.Matching(
        r'|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}', 'HOST:PORT'
      ),
      "HOST:PORT of process 0; '': not set",
    ),
    'count': F(0, legal.Integer(0, 2**20), 'number of processes; 0: not set'),
    'index': F(
      -1, legal.Integer(0, 2**20, {-1: 'not set'}), 'index of this process'
    ),
    'start_timeout_s': F(
      300.0,
      legal.DURATION,
      'seconds within which all processes must have started',
    ),
    'dead_after_s': F(
      30.0, legal.DURATION, 'seconds without a heartbeat before the run stops'
    ),
    'slow_after_s': F(
      30.0, legal.DURATION, 'seconds before a slow process is reported'
    ),
  },
)

CHECKPOINT = schema.Section(
  'Checkpoints.',
  {
    'every': F(
      500, legal.POSITIVE, 'steps between saves; the last step is saved too'
    ),
    'keep': F(
      2,
      legal.POSITIVE,
      'number of latest checkpoints to keep, in addition to the best',
    ),
  },
)

LOG = schema.Section(
  'Metrics.',
  {
    'every': F(10, legal.POSITIVE, 'steps between writes of training metrics'),
    'tensorboard': F(True, legal.BOOLEAN, 'also write TensorBoard events'),
    'trackers': F(
      (),
      legal.Tuple(legal.one_of('wandb', 'mlflow')),
      'also write to these trackers, if they are installed (docs/training.md)',
    ),
  },
)

PROFILE = schema.Section(
  'A trace of some steps, and its longest operations (docs/doctor.md).',
  {
    'steps': F(0, legal.Integer(0, 1000), 'steps to trace; 0: none'),
    'first_step': F(
      10, legal.POSITIVE, 'number of steps before the first traced step'
    ),
  },
)

TOP = {
  'steps': F(1000, legal.POSITIVE, 'optimizer updates'),
  'seed': F(0, legal.SEED, 'seed of random parameters and of the data order'),
  'plugins': F(
    (),
    legal.Tuple(legal.MODULE),
    "the user's modules, from the current folder or $PYTHONPATH, that are "
    'imported first: names that they register are legal in the config '
    '(docs/extend.md)',
  ),
  'nonfinite': F(
    'stop',
    legal.one_of('stop', 'skip'),
    'if the loss or a gradient is not finite, the step changes nothing, and '
    'the run stops, or skips the step and counts it in train/nonfinite',
  ),
  'max_consecutive_skips': F(
    10,
    legal.POSITIVE,
    'consecutive steps that may be skipped before the run stops',
    formerly='nonfinite_limit',
  ),
}
