"""Estimates the cost of a run's programs by formula, without a compiler.

Bytes of parameters, optimizer state and teachers are exact up to tile padding.
The rest uses T tokens per chip in a micro-batch, S, D, F, N, G and H as in
GLOSSARY.md, t chips on the tensor axis, b bytes per activation and c slices in
which the MLP processes a row (matmul.slices_on):

  saved by remat 'block'   S T D b                     the residual stream
  saved by remat 'dots'    S T (4 D + (2 N + 2 G) H / t + 2 F / t) b
  saved by remat 'none'    S T (10 D + (4 N + 4 G) H / t + 5 F / t) b
  one layer of a step      T (8 D + 4 (N + G) H / t + 10 F / (t c)) b
  one layer of a pass      T (4 D + 2 (N + G) H / t + 3 F / (t c)) b
  gradients                4 bytes per trained parameter, sharded as these are
  tables                   four float32 copies of the embedding in the update
  lookup                   a copy of the table in columns, and its gradient

With P stages and M parts of a micro-batch, a layer processes T P / M tokens at
a time, and saves activations of T (P + M - 1) / M tokens.

The factors and the overhead of gaps between buffers were fitted to XLA's
allocations for v5e. docs/plan.md reports the error against compiled programs.
"""

import math

import jax

from kd.models import family
from kd.models import matmul
from kd.partitioning import rules
from kd.planning import programs
from kd.planning.cost import costs
from kd.planning.cost import flops
from kd.planning.cost import stages as stages_lib
from kd.planning.cost import tower_flops
from kd.planning.hlo import buffers
from kd.run import resolved

_KEPT = {
  'block': (1, 0, 0),
  'dots': (4, 2, 2),
  'none': (10, 4, 5),
  # Offloaded to host memory.
  'block_offload': (0, 0, 0),
  'dots_offload': (1, 0, 0),
}
_OFFLOADED = dict.fromkeys(_KEPT, (0, 0, 0)) | {
  'block_offload': (1, 0, 0),
  'dots_offload': (3, 2, 2),
}
_STEP_AT_WORK, _PASS_AT_WORK = (8, 4, 10), (4, 2, 3)
_COPIED_TABLES = 4
_LOGIT_BYTES = 30  # read and written by the objective per logit
_GAPS = 1.15  # size of the heap relative to the buffers in it
_BATCH_BYTES = 24  # per position: ids and weight
_LANES = 128  # columns of a tile; narrower arrays are padded


def _itemsize(model):
  return jax.numpy.dtype(model.module.dtype).itemsize


def _width(config: family.Config, factors, tensor):
  """Returns elements per token from multiples of D, of all heads and of F."""
  of_width, of_heads, of_mlp = factors
  heads = (config.num_heads + config.num_kv_heads) * config.head_dim
  return (
    of_width * config.embed_dim
    + (of_heads * heads + of_mlp * config.mlp_dim) / tensor
  )


def _layer_bytes(model, factors, tokens, length):
  """Returns bytes per chip of a layer's temporaries: in total, and at a time.

  The MLP processes long rows in slices; only one slice has temporaries.

  Args:
    model: the model.
    factors: multiples of D, of all heads and of F that are temporary.
    tokens: tokens per chip.
    length: tokens per row.
  """
  tensor, shards = _tensor(model.mesh), rules.length_shards(model.mesh)
  slices = matmul.slices_on(shards, length)
  size = tokens * _itemsize(model)
  whole = _width(model.config, factors, tensor) * size
  mlp = _width(model.config, (0, 0, factors[2]), tensor) * size
  return whole, whole - mlp + mlp / slices


def _table_in_columns(mesh, config, size):
  """Returns bytes per chip of an embedding sharded by columns."""
  shards = _weight_shards(mesh) * _tensor(mesh)
  columns = config.embed_dim / shards
  if shards > 1:
    columns = math.ceil(columns / _LANES) * _LANES
  return config.vocab_size * columns * size if shards > 1 else 0.0


def _gathered(model, stages):
  """Returns bytes per chip of weights gathered in a pass: all, and received."""
  whole = model.config.layer_matrices * model.config.num_layers
  whole *= stages.gathers * _itemsize(model) / _tensor(model.mesh)
  return whole, whole * (1 - 1 / _weight_shards(model.mesh))


def teacher(
  run: resolved.Run, resident: costs.ResidentMemory, number: int
) -> costs.Cost:
  """Returns the cost of a teacher's pass over a batch."""
  model = run.teacher_models[number]
  length = run.config.data.length
  tokens, size = _tokens(run, model.mesh), _itemsize(model)
  params = resident.teachers[number]
  fetched = costs.fetched_bytes(run, programs.teacher_names(run)[number])
  stages = stages_lib.of(model, run.config.data.batch_size)
  gathered, received = _gathered(model, stages)
  table = _table_in_columns(model.mesh, model.config, 2)
  work = flops.as_computed(model.config, length, model.module.kernel)
  hidden = tokens * model.config.embed_dim * size
  moved, _ = _layer_bytes(
    model, _PASS_AT_WORK, stages.repeated * tokens, length
  )
  _, layer = _layer_bytes(
    model, _PASS_AT_WORK, stages.at_a_time(tokens), length
  )
  return costs.Cost(
    name=programs.teacher_names(run)[number],
    bytes=_by_kind(
      teacher=params,
      activations=_BATCH_BYTES * tokens + 2 * hidden,
      # The matrices of the current and of the next layer.
      temporaries=layer + 2 * fetched / model.config.num_layers,
      collectives=table,
    ),
    flops=(
      flops.forward(model.config, run.config.data.batch_size, length, work)
      * stages.repeated
      + _tower_flops(run, model)
    )
    / model.mesh.size,
    hbm=params + 2 * gathered + model.config.num_layers * 2 * moved,
    ici=(
      received
      + _pass_ici(model, stages.repeated * tokens)
      + stages.sent(tokens, model.config.embed_dim, size)
    ),
    host=fetched,
    fetched=fetched,
    stated=0,
    error='',
  )


def _tower_flops(run, model):
  """Returns the operations of a teacher's vision tower per step."""
  form = run.image_form_of(model.config)
  if form is None:
    return 0
  images = run.config.data.batch_size * form.per_row
  return images * tower_flops.forward(run, model.config)


def step(run: resolved.Run, resident: costs.ResidentMemory) -> costs.Cost:
  """Returns the cost of the update."""
  model, micro = run.student, run.config.optimizer.micro_batches
  tokens = _tokens(run, run.mesh) / micro
  size, tensor = _itemsize(model), _tensor(run.mesh)
  params, moments = (
    resident.parameters,
    resident.optimizer + resident.optimizer_on_host,
  )
  remat = run.config.student.remat
  kept = model.config.num_layers * _width(model.config, _KEPT[remat], tensor)
  length = run.config.data.length
  stages = stages_lib.of_update(run)
  moved, _ = _layer_bytes(
    model, _STEP_AT_WORK, stages.repeated * tokens, length
  )
  _, layer = _layer_bytes(
    model, _STEP_AT_WORK, stages.at_a_time(tokens), length
  )
  gathered, received = _gathered(model, stages)
  kept *= tokens * size * stages.repeated
  offloaded = model.config.num_layers * tokens * size
  offloaded *= _width(model.config, _OFFLOADED[remat], tensor)
  gradients = resident.gradients * (1 + (micro > 1) + (stages.count > 1))
  tables = _COPIED_TABLES * resident.embedding
  tables += _table_in_columns(run.mesh, model.config, 4)
  kept += _tower_bytes(run)
  heap = _GAPS * (kept + gradients + tables + layer)
  passes = micro * (2 if remat == 'none' else 3)
  targets = 0
  if run.teachers and run.objective.needs_teacher:
    # By formula, since tracing the teachers is too slow for a search.
    targets = sum(resident.unembeddings) + sum(
      _tokens(run, run.mesh) * model.config.embed_dim * _itemsize(model)
      for model in run.teacher_models
    )
  elif run.objective.needs_teacher:
    targets = programs.local_bytes(programs.targets(run))
  by_model = costs.model_flops(run)
  for part in ('teacher', 'teacher_tower'):
    by_model.pop(part, None)
  for part in ('student_forward', 'student_backward', 'recomputed'):
    by_model[part] *= stages.repeated
  return costs.Cost(
    name=programs.STEP,
    bytes=_by_kind(
      parameters=params,
      optimizer=resident.optimizer,
      teacher=targets,
      gradients=gradients,
      activations=kept + _BATCH_BYTES * _tokens(run, run.mesh),
      temporaries=heap - kept - gradients,
    ),
    flops=sum(by_model.values()) / run.mesh.size,
    # The update reads and writes gradients, moments and parameters.
    hbm=(
      3 * (resident.gradients + moments)
      + passes * (2 * gathered + model.config.num_layers * moved)
      + 2 * kept * micro
      + micro * programs.num_chunks(run) * _chunk_traffic(run)
      + _LOGIT_BYTES * _tokens(run, run.mesh) * model.config.vocab_size / tensor
    ),
    ici=(
      passes * (received + _pass_ici(model, stages.repeated * tokens))
      + stages_lib.sent_in_update(run)
      # Gradients are summed in float32.
      + micro * received * 4 / size
      + 2 * resident.gradients * (1 - 1 / run.mesh.shape['data'])
      + 2 * _outside_stages(model, resident, stages) * (1 - 1 / stages.count)
    ),
    host=resident.optimizer_on_host + offloaded,
    fetched=0,
    stated=0,
    error='',
  )


def _outside_stages(model, resident, stages):
  """Returns bytes per chip of gradients that all stages share."""
  matrices = model.config.layer_matrices * model.config.num_layers
  matrices *= 4 * (1 - stages.fraction)
  matrices /= _weight_shards(model.mesh) * _tensor(model.mesh)
  return resident.embedding + resident.head + matrices


def _chunk_traffic(run):
  """Returns bytes of embeddings that a chunk of positions reads and writes.

  A chunk reads the student's embedding twice, accumulates its gradient, and
  reads the embedding of each teacher.
  """
  config = run.student.config
  whole = 12 * config.embed_dim + sum(
    2 * model.config.embed_dim for model in run.teacher_models
  )
  return (
    config.vocab_size * whole / (_weight_shards(run.mesh) * _tensor(run.mesh))
  )


def decode(run: resolved.Run, resident: costs.ResidentMemory) -> costs.Cost:
  """Returns the cost of answering one batch of prompts.

  The peak is in prefill, which gathers the weights of about two layers at a
  time, and columns of the embedding. A decoding step gathers no weights.
  """
  model = run.student
  config = model.config
  batch, steps = programs.decode_size(run.config)
  rows = batch / rules.row_shards(run.mesh)
  length = run.config.plan.prompt_length
  slots = length + steps
  size, tensor = _itemsize(model), _tensor(run.mesh)
  kv_parts = tensor if config.num_kv_heads % tensor == 0 else 1
  cache = 2 * config.num_kv_heads * config.head_dim * rows * size / kv_parts
  cache *= sum(
    slots if window is None else min(slots, window) for window in config.windows
  )
  _, layer = _layer_bytes(model, _PASS_AT_WORK, rows * length, length)
  stages = stages_lib.of(model, batch)
  gathered, received = _gathered(model, stages)
  table = _table_in_columns(run.mesh, config, size)
  weights, layers = _decoding_copy(model, resident, stages)
  return costs.Cost(
    name=programs.DECODE,
    bytes=_by_kind(
      parameters=resident.student + weights,
      kv_cache=cache,
      temporaries=layer + layers,
      collectives=max(
        2 * gathered / (stages.gathers * config.num_layers), table
      ),
    ),
    flops=2 * rows * slots * config.parameter_count / tensor,
    hbm=resident.student + 2 * gathered + steps * (weights + cache),
    ici=received + steps * _decode_step_ici(model, batch),
    host=0,
    fetched=0,
    stated=0,
    error='',
  )


def _decoding_copy(model, resident, stages):
  """Returns bytes of the weights that decoding reads, and of its layers.

  Prefill copies the layers again. There are no stages: each chip has all.
  """
  if model.module.core is not model.module:
    held = programs.decoding_weights(model)
    return programs.local_bytes(held), programs.local_bytes(held.layers)
  scale = _itemsize(model) / 4
  tables = (resident.embedding + resident.head) * scale
  layers = resident.student * scale - tables
  layers /= stages.fraction / stages.count + 1 - stages.fraction
  return tables + layers, layers


def _decode_step_ici(model, batch):
  """Returns bytes received by all-reduces in one decoding step.

  Each layer sums queries, keys, values, the MLP's two input products and the
  attention output; a sum is received twice.
  """
  config, mesh = model.config, model.mesh
  heads = (3 * config.num_heads + 4 * config.num_kv_heads) * config.head_dim
  width = heads + 4 * config.mlp_dim
  rows = batch / mesh.shape['data']
  share = 1 - 1 / _weight_shards(mesh)
  whole = config.num_layers * width / _tensor(mesh)
  return share * rows * whole * _itemsize(model)


def all_costs(
  run: resolved.Run, resident: costs.ResidentMemory
) -> list[costs.Cost]:
  """Returns the cost of every program, in the order of programs.all_programs.

  Args:
    run: the run.
    resident: its resident memory.
  """
  count = len(run.teachers) if run.objective.needs_teacher else 0
  teachers = [teacher(run, resident, number) for number in range(count)]
  return [*teachers, step(run, resident), decode(run, resident)]


def _tower_bytes(run):
  """Returns bytes per chip that a trained tower saves per micro-batch.

  It saves the inputs of its layers. A frozen tower saves nothing.
  """
  tower, form = tower_flops.step(run), run.image_form
  if tower is None or not tower.saved_if_frozen:
    return 0
  config = run.student.config.vision
  images = (
    run.config.data.batch_size * form.per_row / rules.row_shards(run.mesh)
  )
  values = config.num_layers * config.patches * config.embed_dim
  micro = run.config.optimizer.micro_batches
  return images / micro * values * _itemsize(run.student)


def _tokens(run, mesh):
  """Returns the number of tokens of a batch per chip."""
  data = run.config.data
  shards = rules.row_shards(mesh) * rules.length_shards(mesh)
  return data.batch_size * data.length / shards


def _weight_shards(mesh):
  """Returns the number of shards that a layer gathers its weights from."""
  return mesh.shape['fsdp'] * rules.length_shards(mesh)


def _tensor(mesh):
  return mesh.shape['tensor']


def _pass_ici(model, tokens):
  """Returns bytes received in a forward pass on the tensor and sequence axes.

  Each layer has two sums over the tensor axis, and gathers the keys and values
  of whole rows over the sequence axis.
  """
  config, shards = model.config, rules.length_shards(model.mesh)
  tensor = _tensor(model.mesh)
  size = config.num_layers * tokens * _itemsize(model)
  sums = 4 * (1 - 1 / tensor) * config.embed_dim
  keys = 2 * (shards - 1) * config.num_kv_heads * config.head_dim
  return size * (sums + keys / tensor)


def _by_kind(**sizes):
  return dict.fromkeys(buffers.KINDS, 0) | {k: int(v) for k, v in sizes.items()}
