"""Converts parameters one by one, so that there are never two copies of all."""

from collections.abc import Callable
import functools

from flax import traverse_util
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import family
from kd.models import tensors
from kd.quantization import quantized_model

# From a parameter's keys and value to what the tree holds instead.
Convert = Callable[[tuple[str, ...], jax.Array], types.PyTree]


def plain(
  module: family.Model,
  params: types.PyTree,
  shardings: types.PyTree,
  keep: bool,
) -> types.PyTree:
  """Returns what family.Model.plain_params returns.

  Args:
    module: the model; each of its plain parameters depends on what it has at
      the same place alone.
    params: its parameters.
    shardings: of the result.
    keep: whether `params` are needed later, and not deleted.
  """
  result: types.PyTree = {}
  abstract = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  shapes = jax.tree.map(abstract, params)
  for keys, sharding in traverse_util.flatten_dict(shardings).items():
    part = tensors.leaf(params, keys)

    def compute(part, keys=keys):
      # The compiler leaves out what the others would be.
      whole = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
      tensors.set_leaf(whole, keys, part)
      return tensors.leaf(module.plain_params(whole), keys)

    value = jax.jit(compute, out_shardings=sharding)(part)
    if not keep:
      _delete(part, value)
    tensors.set_leaf(result, keys, value)
  return result


def in_turn(
  params: types.PyTree,
  convert: Convert,
) -> types.PyTree:
  """Converts parameters one by one.

  Args:
    params: dicts of arrays; deleted, unless `convert` returns them.
    convert: from a parameter's keys and value to what the tree holds instead.
  """
  result: types.PyTree = {}
  for keys, array in traverse_util.flatten_dict(params).items():
    value = convert(keys, array)
    _delete(array, value)
    tensors.set_leaf(result, keys, value)
  return result


def _delete(old, new):
  """Deletes arrays once those that were computed from them are there."""
  kept = {id(x) for x in jax.tree.leaves(jax.block_until_ready(new))}
  for array in jax.tree.leaves(old):
    if id(array) not in kept:
      array.delete()


def stored(
  module: quantized_model.StoredModel,
  params: types.PyTree,
  shardings: types.PyTree,
) -> types.PyTree:
  """Stores plain parameters in few bits, one by one.

  Args:
    module: says how.
    params: deleted.
    shardings: of the result.
  """
  return in_turn(params, storing(module, shardings))


def storing(
  module: quantized_model.StoredModel, shardings: types.PyTree
) -> Convert:
  """Returns what stores one parameter, and deletes it; see `stored`."""

  def convert(keys, array):
    store = jax.jit(
      functools.partial(module.quantize, keys),
      out_shardings=tensors.leaf(shardings, keys),
      donate_argnums=0,
    )
    return store(array)

  return convert
