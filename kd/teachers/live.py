"""Live teachers: they score each batch when it is trained on."""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.models import gemma3
from kd.partitioning import rules


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A teacher in memory.

  Attributes:
    model: the module.
    params: its parameters, placed on the mesh.
    weight: in the mixture of teachers; the weights sum to 1.
  """

  model: gemma3.Gemma3
  params: types.PyTree
  weight: float


def make(
  teachers: Sequence[Teacher],
  vocab_size: int,
  spec: types.TapSpec,
  mesh: jax.sharding.Mesh,
) -> Callable[[types.Batch], distributions.Targets]:
  """Returns the function from a batch to the teachers' targets.

  The targets are final hidden states and the embeddings: logits [B, L, V] never
  exist as a whole. An embedding is not copied, unless it has padding rows that
  the student lacks: cut at each step, a split table would move between devices.

  Args:
    teachers: one, or those of a mixture.
    vocab_size: V of the student.
    spec: layers of the first teacher whose insides are shown too.
    mesh: the mesh that batches lie on, and targets; if it is not the teachers'
      own, they move between the two, and the embeddings have a copy here.
  """
  own = jax.tree.leaves(teachers[0].params)[0].sharding.mesh
  nothing = types.TapSpec((), ())
  scores = [
    scorer(t.model, nothing if number else spec)
    for number, t in enumerate(teachers)
  ]

  unembeddings = [
    _unembedding(t.params['embedding'], vocab_size, mesh) for t in teachers
  ]
  weights = [jnp.float32(t.weight) for t in teachers]

  def targets(batch):
    # Nothing here waits: on devices of their own the teachers are at this batch
    # as soon as they have done the one before.
    if own != mesh:
      batch = jax.device_put(batch, rules.batch_sharding(own))
    with rules.active(own):
      found = [
        score(t.params, batch)
        for score, t in zip(scores, teachers, strict=True)
      ]
    if own != mesh:
      found = _move(found, mesh)
    mixture = dense_distributions.DenseMixture(
      tuple(
        dense_distributions.DenseTeacher(hidden, unembedding, weight)
        for (hidden, _), unembedding, weight in zip(
          found, unembeddings, weights, strict=True
        )
      )
    )
    return distributions.Targets(mixture, taps=found[0][1])

  return targets


def unembedding_place(
  table: types.Array, vocab_size: int, mesh: jax.sharding.Mesh
) -> jax.sharding.NamedSharding:
  """Where the embedding that targets name lies.

  Args:
    table: the teacher's embedding [V_t, D_t], which may be abstract.
    vocab_size: V of the student: rows beyond it are cut off.
    mesh: the one that targets lie on.
  """
  size = min(table.shape[0], vocab_size)
  if size == table.shape[0] and table.sharding.mesh == mesh:
    return table.sharding  # The teacher's own array.
  return rules.table_sharding(mesh, size)


def _unembedding(table, vocab_size, mesh):
  """The embedding, where the objective needs it."""
  place = unembedding_place(table, vocab_size, mesh)
  rows = table.shape[0]
  if table.sharding.mesh != mesh:
    table = jax.device_put(table, rules.table_sharding(mesh, rows))
  if rows <= vocab_size:
    return table
  return jax.jit(lambda x: x[:vocab_size], out_shardings=place)(table)


def _move(found, mesh):
  """Hidden states and taps [n, B, L, ...] to another mesh."""
  return [
    (
      jax.device_put(hidden, rules.hidden_sharding(mesh)),
      shown and jax.device_put(shown, rules.taps_sharding(mesh)),
    )
    for hidden, shown in found
  ]


def scorer(
  model: gemma3.Gemma3, spec: types.TapSpec
) -> Callable[[types.PyTree, types.Batch], tuple[types.Array, types.Taps]]:
  """The jitted forward pass: from (params, batch) to hidden states and taps."""

  @jax.jit
  def score(params, batch):
    hidden, taps = gemma3.forward(model, params, batch, spec)
    return rules.constrain(hidden, ('batch', 'length', None)), taps

  return score
