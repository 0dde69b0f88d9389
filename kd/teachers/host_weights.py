"""Keeps a teacher's weights in the host's memory until they are used.

These are the matrices of layers, which a program copies to the device as each
layer runs. Embeddings stay on the device, since every target needs all of them,
and so do norms and towers, which are small.
"""

from collections.abc import Callable

from flax import struct
import jax

from kd.core import types
from kd.models import computed
from kd.models import families
from kd.models import family
from kd.models import tensors as tensors_lib

KIND = 'pinned_host'  # The memory kind of the host's memory in shardings.
_HOST = jax.memory.Space.Host
_DEVICE = jax.memory.Space.Device


@struct.dataclass
class _Moved(computed.Computed):
  """A matrix in the host's memory.

  Attributes:
    weight: the matrix, in the host's memory.
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
  """Returns parameters with a function applied to the matrices of layers.

  Args:
    model: the model.
    params: its parameters; a matrix may consist of several arrays.
    function: function from each such array to the new one.
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
  """Returns all parameters in the memory of their devices."""

  def place(x):
    if x.sharding.memory_kind != KIND:
      return x
    return jax.device_put(x, x.sharding.with_memory_kind('device'))

  return jax.tree.map(place, params)


def near(x: types.Array) -> types.Array:
  """Copies an array to the device under jit."""
  if jax.typeof(x).memory_space != _HOST:
    return x
  return jax.device_put(x, _DEVICE)


def bound(model: family.Model, params: types.PyTree) -> types.PyTree:
  """Returns parameters that a forward pass copies to the device under jit.

  Args:
    model: the model.
    params: its parameters; those on the device are unchanged.
  """
  leaves = jax.tree.leaves(params)
  if all(jax.typeof(x).memory_space != _HOST for x in leaves):
    return params
  if model.core is not model:
    # A quantized model wraps its matrices itself.
    return each(model, params, near)
  return _replaced(model, params, _Moved)
