"""Live teachers: they score each batch when it is trained on."""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import gemma3
from kd.partitioning import rules


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A teacher in memory.

  Attributes:
    model: the module.
    params: its parameters, placed on the mesh.
    share: its share in a mixture; shares of all teachers sum to 1.
  """

  model: gemma3.Gemma3
  params: types.PyTree
  share: float


def make(
  teachers: Sequence[Teacher],
  vocab_size: int,
  spec: gemma3.TapSpec,
  mesh: jax.sharding.Mesh,
) -> Callable[[types.Batch], types.Targets]:
  """Returns the function from a batch to the teachers' targets.

  The targets are final hidden states and the embeddings: logits [B, L, V] never
  exist as a whole. An embedding is not copied, unless it has padding rows that
  the student lacks: cut at each step, a split table would move between devices.

  Args:
    teachers: one, or those of a mixture.
    vocab_size: V of the student.
    spec: layers of the first teacher whose insides are shown too.
    mesh: the mesh that batches lie on.
  """
  nothing = gemma3.TapSpec((), ())
  scores = [
    scorer(t.model, nothing if number else spec)
    for number, t in enumerate(teachers)
  ]

  unembeddings = [
    _cut(t.params['embedding'], vocab_size, mesh) for t in teachers
  ]

  shares = [jnp.float32(t.share) for t in teachers]

  def targets(batch):
    with rules.active(mesh):
      found = [
        score(t.params, batch)
        for score, t in zip(scores, teachers, strict=True)
      ]
    return types.Targets(
      distribution=tuple(
        types.Dense(hidden, unembedding, share)
        for (hidden, _), unembedding, share in zip(
          found, unembeddings, shares, strict=True
        )
      ),
      taps=found[0][1],
    )

  return targets


def _cut(embedding, vocab_size, mesh):
  if embedding.shape[0] <= vocab_size:
    return embedding
  sharding = rules.table_sharding(mesh, vocab_size)
  return jax.jit(lambda x: x[:vocab_size], out_shardings=sharding)(embedding)


def scorer(
  model: gemma3.Gemma3, spec: gemma3.TapSpec
) -> Callable[[types.PyTree, types.Batch], tuple[types.Array, types.Taps]]:
  """The jitted forward pass: from (params, batch) to hidden states and taps."""

  @jax.jit
  def score(params, batch):
    hidden, taps = gemma3.forward(model, params, batch, spec)
    return rules.constrain(hidden, ('batch', 'length', None)), taps

  return score
