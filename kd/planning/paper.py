"""What programs cost a chip, counted on paper: nothing is compiled.

The count of parameters, optimizer and teacher is exact but for tiles' padding.
For the rest, with T tokens a chip in a micro-batch, D, F, N, G, H, S as ever,
`t` chips of the tensor axis and `b` bytes of an activation:

  kept by remat 'block'   S T D b                      the residual stream
  kept by remat 'dots'    S T (4 D + (2 N + 2 G) H / t + 2 F / t) b
  kept by remat 'none'    S T (10 D + (4 N + 4 G) H / t + 5 F / t) b
  a step's layer at work  T (8 D + 4 (N + G) H / t + 10 F / t) b
  a pass's layer at work  T (4 D + 2 (N + G) H / t + 3 F / t) b
  gradients               4 bytes a parameter, sharded as parameters are
  tables                  float32 embeddings that the update copies: four
  lookup                  the table once more in columns, and its gradient

The factors are what XLA was seen to keep for TPUs, and so is the gap between
buffers. The compiler has the last word: the plan shows both.
"""

import math

import jax

from kd.models import gemma3_config
from kd.partitioning import rules
from kd.planning import buffers
from kd.planning import costs
from kd.planning import flops
from kd.planning import programs
from kd.train import resolve

_KEPT = {
  'block': (1, 0, 0),
  'dots': (4, 2, 2),
  'none': (10, 4, 5),
  # What lies in the host's memory is no chip's.
  'block_offload': (0, 0, 0),
  'dots_offload': (1, 0, 0),
}
_OFFLOADED = dict.fromkeys(_KEPT, (0, 0, 0)) | {
  'block_offload': (1, 0, 0),
  'dots_offload': (3, 2, 2),
}
_STEP_AT_WORK, _PASS_AT_WORK = (8, 4, 10), (4, 2, 3)
_COPIED_TABLES = 4
_LOGIT_BYTES = 30  # that the objective reads and writes for each logit
_GAPS = 1.15  # a heap's size to what lies in it
_BATCH_BYTES = 24  # of a position: its ids and its weight
_LANES = 128  # columns of a tile: a narrower array is padded to it


def _itemsize(model):
  return jax.numpy.dtype(model.module.dtype).itemsize


def _width(config: gemma3_config.Gemma3Config, factors, tensor):
  """Elements a token: multiples of D, of heads and of the MLP's width."""
  of_width, of_heads, of_mlp = factors
  heads = (config.num_heads + config.num_kv_heads) * config.head_dim
  return (
    of_width * config.embed_dim
    + (of_heads * heads + of_mlp * config.mlp_dim) / tensor
  )


def _layer_weights(config):
  """Parameters of one layer's matrices."""
  heads = config.head_dim * (2 * config.num_heads + 2 * config.num_kv_heads)
  return config.embed_dim * (heads + 3 * config.mlp_dim)


def _table_in_columns(mesh, config, size):
  """Bytes a chip of an embedding that is split by columns."""
  parts = _split(mesh) * _tensor(mesh)
  columns = config.embed_dim / parts
  if parts > 1:
    columns = math.ceil(columns / _LANES) * _LANES
  return config.vocab_size * columns * size if parts > 1 else 0.0


def _gathered(model):
  """Bytes a chip of the weights that one pass takes from other chips."""
  whole = _layer_weights(model.config) * model.config.num_layers
  whole *= _itemsize(model) / _tensor(model.mesh)
  return whole, whole * (1 - 1 / _split(model.mesh))


def teacher(run: resolve.Run, held: costs.Held, number: int) -> costs.Cost:
  """The pass of a teacher over a batch."""
  model, _ = run.teachers[number]
  length, tensor = run.config.data.length, _tensor(model.mesh)
  tokens, size = _tokens(run, model.mesh), _itemsize(model)
  params = held.teachers[number]
  gathered, received = _gathered(model)
  table = _table_in_columns(model.mesh, model.config, 2)
  work = flops.as_computed(model.config, length, model.module.kernel)
  hidden = tokens * model.config.embed_dim * size
  layer = _width(model.config, _PASS_AT_WORK, tensor) * tokens * size
  return costs.Cost(
    name=programs.teacher_names(run)[number],
    bytes=_named(
      teacher=params,
      activations=_BATCH_BYTES * tokens + 2 * hidden,
      temporaries=layer,
      collectives=table,
    ),
    flops=flops.forward(model.config, run.config.data.batch_size, length, work)
    / model.mesh.size,
    hbm=params + 2 * gathered + model.config.num_layers * 2 * layer,
    ici=received + _between_parts(model, tokens),
    host=0,
    stated=0,
    error='',
  )


def step(run: resolve.Run, held: costs.Held) -> costs.Cost:
  """An update."""
  model, micro = run.student, run.config.optimizer.micro_batches
  tokens = _tokens(run, run.mesh) / micro
  size, tensor = _itemsize(model), _tensor(run.mesh)
  params, moments = held.parameters, held.optimizer + held.on_host
  remat = run.config.student.remat
  kept = model.config.num_layers * _width(model.config, _KEPT[remat], tensor)
  layer = _width(model.config, _STEP_AT_WORK, tensor) * tokens * size
  gathered, received = _gathered(model)
  kept *= tokens * size
  offloaded = model.config.num_layers * tokens * size
  offloaded *= _width(model.config, _OFFLOADED[remat], tensor)
  gradients = params * (1 if micro == 1 else 2)
  tables = _COPIED_TABLES * held.embedding
  tables += _table_in_columns(run.mesh, model.config, 4)
  heap = _GAPS * (kept + gradients + tables + layer)
  passes = micro * (2 if remat == 'none' else 3)
  targets = 0
  if run.objective.needs_teacher:
    targets = sum(held.tables) + sum(
      _tokens(run, run.mesh) * model.config.embed_dim * _itemsize(model)
      for model, _ in run.teachers
    )
  if run.config.teacher.source == 'cached':
    targets = programs.local_bytes(programs.targets(run))
  parts = costs.model_flops(run)
  parts.pop('teacher')
  return costs.Cost(
    name=programs.STEP,
    bytes=_named(
      parameters=params,
      optimizer=held.optimizer,
      teacher=targets,
      gradients=gradients,
      activations=kept + _BATCH_BYTES * _tokens(run, run.mesh),
      temporaries=heap - kept - gradients,
    ),
    flops=sum(parts.values()) / run.mesh.size,
    # Gradients, moments and parameters are read and written by the update.
    hbm=(
      3 * (params + moments)
      + passes * (2 * gathered + model.config.num_layers * layer)
      + 2 * kept * micro
      + micro * programs.chunks(run) * _chunk_traffic(run)
      + _LOGIT_BYTES * _tokens(run, run.mesh) * model.config.vocab_size / tensor
    ),
    ici=(
      passes * (received + _between_parts(model, tokens))
      # Sums of gradients go out as float32.
      + micro * received * 4 / size
      + 2 * params * (1 - 1 / run.mesh.shape['data'])
    ),
    host=held.on_host + offloaded,
    stated=0,
    error='',
  )


def _chunk_traffic(run):
  """Bytes that each chunk of positions moves: all of the vocabulary's tables.

  The student's is read twice and its gradient is added to; a teacher's is read.
  """
  config = run.student.config
  whole = 12 * config.embed_dim + sum(
    2 * model.config.embed_dim for model, _ in run.teachers
  )
  return config.vocab_size * whole / (_split(run.mesh) * _tensor(run.mesh))


def decode(run: resolve.Run, held: costs.Held) -> costs.Cost:
  """Returns the cost of answering one batch of prompts.

  The peak is in the pass over the prompts, which gathers the weights of about
  two layers at a time, and columns of the embedding. A decoding step gathers no
  weights.
  """
  model = run.student
  config = model.config
  batch, steps = programs.decoded(run.config)
  rows = batch / rules.row_parts(run.mesh)
  slots = run.config.plan.prompt_length + steps
  size, tensor = _itemsize(model), _tensor(run.mesh)
  kv_parts = tensor if config.num_kv_heads % tensor == 0 else 1
  cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim
  cache *= rows * slots * size / kv_parts
  prompt = rows * run.config.plan.prompt_length
  layer = _width(config, _PASS_AT_WORK, tensor) * prompt * size
  gathered, received = _gathered(model)
  table = _table_in_columns(run.mesh, config, size)
  # The copy that decoding reads, and the pass over the prompts makes another.
  weights = held.student * size / 4
  layers = weights - held.embedding * size / 4
  return costs.Cost(
    name=programs.DECODE,
    bytes=_named(
      parameters=held.student + weights,
      kv_cache=cache,
      temporaries=layer + layers,
      collectives=max(2 * gathered / config.num_layers, table),
    ),
    flops=2 * rows * slots * gemma3_config.parameter_count(config) / tensor,
    hbm=held.student + 2 * gathered + steps * (weights + cache),
    ici=received + steps * _sums_of_a_token(model, batch),
    host=0,
    stated=0,
    error='',
  )


def _sums_of_a_token(model, batch):
  """Returns bytes received for sums over devices in one decoding step.

  By layer: sums of queries, keys, values and of the MLP's two products in, and
  attended values; a sum is received twice.
  """
  config, mesh = model.config, model.mesh
  heads = (3 * config.num_heads + 4 * config.num_kv_heads) * config.head_dim
  width = heads + 4 * config.mlp_dim
  rows = batch / mesh.shape['data']
  share = 1 - 1 / _split(mesh)
  whole = config.num_layers * width / _tensor(mesh)
  return share * rows * whole * _itemsize(model)


def of(run: resolve.Run, held: costs.Held) -> list[costs.Cost]:
  """Every program of the run, in the order of programs.of.

  Args:
    run: the run.
    held: what it keeps in memory.
  """
  count = len(run.teachers) if run.objective.needs_teacher else 0
  scored = [teacher(run, held, number) for number in range(count)]
  return [*scored, step(run, held), decode(run, held)]


def _tokens(run, mesh):
  """T of a whole batch, on one chip."""
  data = run.config.data
  parts = rules.row_parts(mesh) * rules.length_parts(mesh)
  return data.batch_size * data.length / parts


def _split(mesh):
  """Into how many parts weights are split that a layer gathers."""
  return mesh.shape['fsdp'] * rules.length_parts(mesh)


def _tensor(mesh):
  return mesh.shape['tensor']


def _between_parts(model, tokens):
  """Bytes that one pass brings in for parts of layers, and of rows.

  Two sums a layer over the tensor axis; the keys and values of a whole row.
  """
  config, parts = model.config, rules.length_parts(model.mesh)
  tensor = _tensor(model.mesh)
  size = config.num_layers * tokens * _itemsize(model)
  sums = 4 * (1 - 1 / tensor) * config.embed_dim
  keys = 2 * (parts - 1) * config.num_kv_heads * config.head_dim
  return size * (sums + keys / tensor)


def _named(**found):
  return dict.fromkeys(buffers.KINDS, 0) | {k: int(v) for k, v in found.items()}
