"""Weights that are kept in the host's memory and moved where they are used.

These are the matrices of layers. A program that gets them copies those of a
layer to the device when the layer runs. Embeddings stay on the device, which
compares with them at every target, and so do norms and towers, which are small.
"""

from collections.abc import Callable

from flax import struct
import jax

from kd.core import types
from kd.models import computed
from kd.models import families
from kd.models import family
from kd.models import tensors as tensors_lib

KIND = 'pinned_host'  # The host's memory, as shardings name it.
_HOST = jax.memory.Space.Host
_DEVICE = jax.memory.Space.Device


@struct.dataclass
class _Moved(computed.Computed):
  """A matrix in the host's memory.

  Attributes:
    weight: its values there.
  """

  weight: types.Array

  def value(self) -> types.Array:
    """Copies the matrix to the device."""
    return near(self.weight)


def to_host(model: family.Model, params: types.PyTree) -> types.PyTree:
  """Moves the matrices of layers to the memory of their devices' hosts."""
  place = lambda x: jax.device_put(x, on_host(x.sharding))
  return each(model, params, place)


def on_host(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
  """Returns the sharding in the host's memory."""
  return sharding.with_memory_kind(KIND)


def each(
  model: family.Model,
  params: types.PyTree,
  function: Callable[[types.Array], types.Array],
) -> types.PyTree:
  """Returns parameters with other arrays for the matrices of layers.

  Args:
    model: the model.
    params: its parameters, of which a matrix may have several arrays.
    function: from an array of such a matrix to the new one.
  """
  return _replaced(model, params, lambda x: jax.tree.map(function, x))


def _replaced(model, params, function):
  tensors = families.of(model.config).tensors(model.config)
  stacked = [
    matrix
    for matrix in tensors_lib.matrices(tensors)
    if matrix.layer_matrix and matrix.groups is not None
  ]
  return tensors_lib.replaced(params, stacked, lambda _, x: function(x))


def to_device(params: types.PyTree) -> types.PyTree:
  """Returns parameters in the memory of their devices, wherever they are."""

  def place(x):
    if x.sharding.memory_kind != KIND:
      return x
    return jax.device_put(x, x.sharding.with_memory_kind('device'))

  return jax.tree.map(place, params)


def near(x: types.Array) -> types.Array:
  """Copies an array to the device, within a jitted program."""
  if jax.typeof(x).memory_space != _HOST:
    return x
  return jax.device_put(x, _DEVICE)


def bound(model: family.Model, params: types.PyTree) -> types.PyTree:
  """Returns parameters that a forward pass moves, within a jitted program.

  Args:
    model: the model.
    params: its parameters; those on the device stay as they are.
  """
  leaves = jax.tree.leaves(params)
  if all(jax.typeof(x).memory_space != _HOST for x in leaves):
    return params
  if model.core is not model:
    # Matrices in few bits are wrapped by their own model.
    return each(model, params, near)
  return _replaced(model, params, _Moved)
