"""An exponential moving average of parameters over updates."""

import jax
import jax.numpy as jnp

from kd.core import types

Array = types.Array


def init(params: types.PyTree) -> types.PyTree:
  """Returns the average before the first update: a copy of the parameters."""
  return jax.tree.map(jnp.copy, params)


def update(
  average: types.PyTree,
  params: types.PyTree,
  decay: float,
  step: Array,
  finite: Array,
) -> types.PyTree:
  """Returns the average after an update.

  The decay of update t = 1, 2, ... is min(decay, (1 + t) / (10 + t)), so that
  the initial parameters are soon forgotten.

  Args:
    average: the average before the update.
    params: the parameters after the update.
    decay: the decay of late updates.
    step: int32 [], the number t of the update.
    finite: bool []; the average changes only if True.
  """
  t = step.astype(jnp.float32)
  weight = 1.0 - jnp.minimum(decay, (1.0 + t) / (10.0 + t))
  mean = lambda old, new: jnp.where(finite, old + weight * (new - old), old)
  return jax.tree.map(mean, average, params)
