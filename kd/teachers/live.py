"""The live teacher: scores each batch when it is trained on."""

from collections.abc import Callable

import jax

from kd.core import types
from kd.models import gemma3
from kd.partitioning import rules


def make(
  model: gemma3.Gemma3, params: types.PyTree, mesh: jax.sharding.Mesh
) -> Callable[[types.Batch], types.Targets]:
  """Returns the function from a batch to the teacher's targets.

  The targets are final hidden states and the embedding itself, not a copy:
  logits [B, L, V] never exist as a whole.

  Args:
    model: the teacher.
    params: its parameters, placed on the mesh.
    mesh: the mesh that batches lie on.
  """

  @jax.jit
  def score(params, batch):
    hidden, _ = model.apply(
      {'params': params}, batch.tokens, batch.positions, batch.segment_ids
    )
    return rules.constrain(hidden, ('batch', None, None))

  def targets(batch):
    with rules.active(mesh):
      hidden = score(params, batch)
    return types.Targets(final_hidden=hidden, unembedding=params['embedding'])

  return targets
