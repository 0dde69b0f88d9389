"""Abstract inputs of a training step, for compiling and planning."""

import jax
import jax.numpy as jnp

from kd.core import types
from kd.images import features
from kd.partitioning import rules
from kd.run import own_tokenizer
from kd.run import resolved
from kd.run import routed_teachers
from kd.run import saved_params
from kd.run import source
from kd.run import teacher_prefix
from kd.teachers import host_weights
from kd.teachers import live


def array(shape, dtype, sharding) -> jax.ShapeDtypeStruct:
  """Returns an abstract array."""
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def batch_shape(run: resolved.Run) -> tuple[int, int]:
  """Returns (B, L)."""
  return run.config.data.batch_size, run.config.data.length


def batch(run: resolved.Run, mesh: jax.sharding.Mesh) -> types.Batch:
  """Returns an abstract batch on the student's or the teachers' mesh."""
  shape, sharding = batch_shape(run), rules.batch_sharding(mesh)
  ints = array(shape, jnp.int32, sharding)
  return types.Batch(
    tokens=ints,
    targets=ints,
    positions=ints,
    segment_ids=ints,
    parts=ints,
    weights=array(shape, jnp.float32, sharding),
    row_id=array(shape[:1], jnp.int32, sharding),
    images=_images(run, sharding),
    teacher=_teacher(run, sharding),
    sampling_logprobs=(
      array(shape, jnp.float32, sharding)
      if run.objective.importance is not None
      else None
    ),
    teacher_weights=teacher_weights(run, mesh),
  )


def teacher_weights(
  run: resolved.Run, mesh: jax.sharding.Mesh
) -> jax.ShapeDtypeStruct | None:
  """Returns a batch's weights of routed teachers, or None."""
  count = len(routed_teachers.names(run.config))
  if not count or not run.objective.needs_teacher:
    return None
  shape = *batch_shape(run), count
  return array(shape, jnp.float32, rules.batch_sharding(mesh))


def _teacher(run, sharding):
  """Returns the rows of a teacher that reads its own, or None."""
  if not run.objective.needs_teacher:
    return None
  if not teacher_prefix.reads_own_rows(run.config):
    return None
  rows, length = batch_shape(run)
  shape = rows, own_tokenizer.length(run.config)
  own = array(shape, jnp.int32, sharding)
  of_student = array((rows, length), jnp.int32, sharding)
  if own_tokenizer.compares_spans(run):
    return types.TeacherTokens(*[own] * 5, of_student)
  return types.TeacherTokens(*[own] * 4, None, None, of_student)


def _images(run, sharding):
  """Returns a batch's images; None if a model of the run reads none."""
  form = run.image_form
  models = (run.student, *run.teacher_models)
  if form is None or not all(model.config.vision for model in models):
    return None
  rows, length = batch_shape(run)
  index = array((rows, length), jnp.int32, sharding)
  if run.config.data.images.features != features.NONE:
    width = run.student.config.vision.embed_dim
    made = rows, form.per_row * form.tokens, width
    return types.Images(None, index, array(made, jnp.bfloat16, sharding))
  pixels = (rows, form.per_row, form.size, form.size, 3)
  return types.Images(array(pixels, jnp.uint8, sharding), index)


def teacher_params(run: resolved.Run) -> list[types.PyTree]:
  """Returns each teacher's parameters in their stored data type."""
  specs = source.of(run.config).teacher_specs().values()
  return [
    _in_memory(model, spec.memory)
    for model, spec in zip(run.teacher_models, specs, strict=True)
  ]


def _in_memory(model, memory):
  params = saved_params.abstract(model)
  if model.module.core is model.module:
    # A quantized model defines the data types of its parameters itself.
    params = jax.tree.map(
      lambda x: array(x.shape, model.param_dtype, x.sharding), params
    )
  if memory == 'host':
    kept = lambda x: array(x.shape, x.dtype, host_weights.on_host(x.sharding))
    params = host_weights.each(model.module, params, kept)
  return params


def unembeddings(run: resolved.Run) -> list[types.PyTree]:
  """Returns the unembedding of each teacher as it is in the targets.

  Rows beyond the student's vocabulary are cut off; see teachers/live. Targets
  for spans have no unembeddings.
  """
  if own_tokenizer.compares_spans(run):
    return []
  tables, vocab_size = [], run.student.config.vocab_size
  if own_tokenizer.compares_positions(run):
    vocab_size = run.teacher.config.vocab_size
  every = zip(run.teacher_models, teacher_params(run), strict=True)
  for model, params in every:
    table = model.module.core.unembedding(params)
    sharding = live.unembedding_sharding(table, vocab_size, run.mesh)
    shape = min(table.shape[0], vocab_size), table.shape[1]
    tables.append(array(shape, table.dtype, sharding))
  return tables
