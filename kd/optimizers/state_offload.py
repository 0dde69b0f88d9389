"""Keeps optimizer state in the host's memory between updates."""

import jax

from kd.core import types
from kd.optimizers import skip_nonfinite

KIND = 'pinned_host'  # The memory kind of the host's memory in shardings.
_HOST = jax.memory.Space.Host
_DEVICE = jax.memory.Space.Device


def moved(
  transformation: skip_nonfinite.Transformation,
) -> skip_nonfinite.Transformation:
  """Returns the transformation with its state in the host's memory.

  The state is copied to the device for the update, and the new one copied back.
  `init` creates the state on the device; the caller moves it once to the memory
  kind KIND.
  """

  def update(gradients, state, params, **arguments):
    near = jax.tree.map(lambda x: jax.device_put(x, _DEVICE), state)
    updates, new = transformation.update(gradients, near, params, **arguments)
    back = lambda x, old: jax.device_put(x, _HOST) if _is_on_host(old) else x
    return updates, jax.tree.map(back, new, state)

  return skip_nonfinite.Transformation(transformation.init, update)


def _is_on_host(x: types.Array) -> bool:
  return jax.typeof(x).memory_space == _HOST
