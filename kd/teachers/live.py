"""Live teachers, which score each batch during training."""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import projected_distributions
from kd.losses import span_likelihoods
from kd.models import family
from kd.partitioning import placement
from kd.partitioning import rules
from kd.teachers import host_weights

# Function from (layer outputs, layer maps) to the outputs in the maps.
Mapped = Callable[[types.Taps, types.PyTree], types.Taps]

NO_TAPS = types.TapSpec((), ())


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A teacher in memory.

  Attributes:
    model: the module.
    params: its parameters, placed on the mesh, possibly in the memory of the
      devices' hosts; see host_weights.
    weight: its weight in the mixture of teachers; the weights sum to 1.
  """

  model: family.Model
  params: types.PyTree
  weight: float


def make(
  teachers: Sequence[Teacher],
  vocab_size: int,
  spec: types.TapSpec,
  mesh: jax.sharding.Mesh,
  mapped: Mapped | None = None,
) -> Callable[..., distributions.Targets]:
  """Returns the function from a batch to the teachers' targets.

  With layer maps as a second argument, it returns only the mapped layers.

  The targets are final hidden states and unembeddings: logits of shape
  [B, L, V] are never materialized. An unembedding is copied only if it has
  padding rows that the student lacks, since slicing a sharded table in each
  step would move it between devices.

  Args:
    teachers: one teacher, or the teachers of a mixture.
    vocab_size: V of the student.
    spec: layer outputs of the first teacher to return too.
    mesh: mesh of batches and targets. If the teachers are on another mesh,
      batches and targets are transferred, and unembeddings are copied to it.
    mapped: selects layers by layer maps; see layer_objective.mapped.
  """
  own = jax.tree.leaves(teachers[0].params)[0].sharding.mesh
  scores = [
    scorer(t.model, NO_TAPS if number else spec, number, mapped)
    for number, t in enumerate(teachers)
  ]

  unembeddings = [
    _unembedding(t.model.unembedding(t.params), vocab_size, mesh)
    for t in teachers
  ]
  weights = [jnp.float32(t.weight) for t in teachers]

  def targets(batch, layer_maps=None):
    position_weights = batch.teacher_weights
    # Must not block: teachers on separate devices start on this batch as soon
    # as they have finished the previous one.
    if own != mesh:
      batch = placement.across(batch, rules.batch_sharding(own))
    with rules.active(own):
      outputs = [
        score(t.params, batch, None if number else layer_maps)
        for number, (score, t) in enumerate(zip(scores, teachers, strict=True))
      ]
    if own != mesh:
      outputs = _move(outputs, mesh)
    mixture = dense_distributions.DenseMixture(
      tuple(
        dense_distributions.DenseTeacher(hidden, unembedding, weight)
        for (hidden, _), unembedding, weight in zip(
          outputs, unembeddings, weights, strict=True
        )
      ),
      position_weights,
    )
    return distributions.Targets(
      mixture, outputs[0][1], mapped=layer_maps is not None
    )

  return targets


def make_spans(
  teacher: Teacher, chunk_tokens: int, mesh: jax.sharding.Mesh
) -> Callable[[types.Batch], distributions.Targets]:
  """Returns the function from a batch to the likelihoods of its spans.

  Args:
    teacher: a teacher with its own tokenizer; see types.TeacherTokens.
    chunk_tokens: tokens per device whose logits are in memory at a time.
    mesh: mesh of batches and targets; see `make`.
  """
  own = jax.tree.leaves(teacher.params)[0].sharding.mesh
  score = span_scorer(teacher.model, chunk_tokens)

  def targets(batch):
    if own != mesh:
      batch = placement.across(batch, rules.batch_sharding(own))
    with rules.active(own):
      likelihoods = score(teacher.params, batch)
    if own != mesh:
      likelihoods = placement.across(likelihoods, rules.batch_sharding(mesh))
    return distributions.Targets(likelihoods, None)

  return targets


def make_projected(
  teacher: Teacher,
  shared: projected_distributions.SharedVocabulary,
  mesh: jax.sharding.Mesh,
) -> Callable[[types.Batch], distributions.Targets]:
  """Returns the function from a batch to distributions over shared outcomes.

  Args:
    teacher: a teacher with its own tokenizer; see types.TeacherTokens.
    shared: the outcomes that its tokenizer shares with the student's.
    mesh: mesh of batches and targets; see `make`.
  """
  size = teacher.model.unembedding(teacher.params).shape[0]
  score = make([teacher], size, NO_TAPS, mesh)

  def targets(batch):
    (dense,) = score(batch).distribution.teachers
    projected = projected_distributions.ProjectedTeacher(dense, shared)
    return distributions.Targets(projected, None)

  return targets


def unembedding_sharding(
  table: types.Array, vocab_size: int, mesh: jax.sharding.Mesh
) -> jax.sharding.NamedSharding:
  """Returns the sharding of the unembedding in the targets.

  Args:
    table: the teacher's unembedding [V_t, D_t], which may be abstract.
    vocab_size: V of the student; rows beyond it are cut off.
    mesh: mesh of the targets.
  """
  size = min(table.shape[0], vocab_size)
  if size == table.shape[0] and table.sharding.mesh == mesh:
    return table.sharding  # The teacher's own array.
  return rules.table_sharding(mesh, size)


def _unembedding(table, vocab_size, mesh):
  """Returns the unembedding on the devices that the objective uses."""
  sharding = unembedding_sharding(table, vocab_size, mesh)
  rows = table.shape[0]
  if table.sharding.mesh != mesh:
    table = placement.whole(table, rules.table_sharding(mesh, rows))
  if rows <= vocab_size:
    return table
  return jax.jit(lambda x: x[:vocab_size], out_shardings=sharding)(table)


def _move(outputs, mesh):
  """Transfers hidden states and layer outputs to another mesh."""
  return [
    (
      placement.across(hidden, rules.hidden_sharding(mesh)),
      taps and placement.across(taps, rules.taps_sharding(mesh)),
    )
    for hidden, taps in outputs
  ]


def scorer(
  model: family.Model,
  spec: types.TapSpec,
  number: int = 0,
  mapped: Mapped | None = None,
) -> Callable[..., tuple[types.Array, types.Taps]]:
  """Returns the jitted function from (params, batch) to hidden states and taps.

  Args:
    model: the teacher.
    spec: layer outputs to return.
    number: index of the teacher in the mixture.
    mapped: selects among them, if the third argument has layer maps.
  """

  def score(params, batch, layer_maps=None):
    hidden, taps = forward(model, params, batch, spec, number)
    return hidden, taps if layer_maps is None else mapped(taps, layer_maps)

  return jax.jit(score)


def forward(
  model: family.Model,
  params: types.PyTree,
  batch: types.Batch,
  spec: types.TapSpec,
  number: int,
) -> tuple[types.Array, types.Taps]:
  """Computes a teacher's hidden states [B, L, D] and layer outputs.

  A batch without examples for the teacher is skipped: its hidden states are
  zeros.

  Args:
    model: the teacher.
    params: its parameters.
    batch: the rows.
    spec: layer outputs to return.
    number: index of the teacher in Batch.teacher_weights.
  """

  def run(params, batch):
    bound = host_weights.bound(model, params)
    hidden, taps = _forward(model, bound, batch, spec)
    return rules.constrain(hidden, ('batch', 'length', None)), taps

  if batch.teacher_weights is None or spec != NO_TAPS:
    return run(params, batch)
  none = jax.eval_shape(run, params, batch)
  zeros = lambda *_: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), none)
  # All devices must take the same branch: each takes part in the collectives.
  taken = (batch.teacher_weights[..., number] > 0) & (batch.weights != 0)
  return jax.lax.cond(jnp.any(taken), run, zeros, params, batch)


def _forward(
  model: family.Model,
  params: types.PyTree,
  batch: types.Batch,
  spec: types.TapSpec,
) -> tuple[types.Array, types.Taps]:
  """Returns hidden states [B, L, D] and layer outputs at a batch's positions.

  Args:
    model: the teacher, which may read its own rows; see Batch.teacher.
    params: its parameters.
    batch: packed rows.
    spec: layer outputs to return; without attention if the teacher reads its
      own rows.
  """
  if batch.teacher is None:
    return model.forward(params, batch, spec)
  hidden, taps = model.forward(params, _teachers_rows(batch), spec)
  # Targets without a position of the teacher do not count.
  indices = jnp.maximum(batch.teacher.indices, 0)[..., None]
  take = lambda x: jnp.take_along_axis(x, indices, axis=-2)
  layers = taps.hidden
  if layers is not None:
    layers = jax.vmap(take)(layers)
  return take(hidden), taps.replace(hidden=layers)


def _teachers_rows(batch):
  """Returns the rows of Batch.teacher as a batch."""
  own = batch.teacher
  counts = jnp.ones_like(own.tokens) if own.spans is None else own.spans > 0
  return types.Batch(
    own.tokens,
    own.targets,
    own.positions,
    own.segment_ids,
    parts=jnp.zeros_like(own.tokens),
    weights=counts.astype(jnp.float32),
    row_id=batch.row_id,
  )


def span_scorer(
  model: family.Model, chunk_tokens: int
) -> Callable[[types.PyTree, types.Batch], span_likelihoods.SpanLikelihoods]:
  """Returns the jitted function from (params, batch) to span likelihoods."""

  @jax.jit
  def score(params, batch):
    own, rows = batch.teacher, _teachers_rows(batch)
    bound = host_weights.bound(model, params)
    hidden, _ = model.forward(bound, rows, NO_TAPS)
    hidden = rules.constrain(hidden, ('batch', 'length', None))
    table = model.unembedding(params)
    return span_likelihoods.of(hidden, table, own, chunk_tokens)

  return score
