"""Keeps optimizer state in the host's memory between updates."""

import jax
import optax

from kd.core import types
from kd.optimizers import skip_nonfinite

_HOST = jax.memory.Space.Host
_DEVICE = jax.memory.Space.Device


class Moved(optax.GradientTransformationExtraArgs):
  """A transformation whose state is to lie on the host; see `moved`."""


def moved(transformation: skip_nonfinite.Transformation) -> Moved:
  """Returns the transformation with its state in the host's memory.

  What lies there is taken to the device for the update, and what comes of it is
  put back. Its `init` makes a state on the device: who keeps the state moves it
  once, to the memory that memory_kind names.
  """

  def update(gradients, state, params, **arguments):
    near = jax.tree.map(lambda x: jax.device_put(x, _DEVICE), state)
    updates, new = transformation.update(gradients, near, params, **arguments)
    back = lambda x, old: jax.device_put(x, _HOST) if _is_on_host(old) else x
    return updates, jax.tree.map(back, new, state)

  return Moved(transformation.init, update)


def memory_kind(transformation: skip_nonfinite.Transformation) -> str | None:
  """Returns the memory for moments between updates, as shardings name it.

  None is the device's own.
  """
  return 'pinned_host' if isinstance(transformation, Moved) else None


def _is_on_host(x: types.Array) -> bool:
  return jax.typeof(x).memory_space == _HOST
