"""Converts parameters one by one, to avoid two copies of the whole model."""

from collections.abc import Callable
import functools

from flax import traverse_util
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import family
from kd.models import tensors
from kd.quantization import quantized_model

# Maps a parameter's keys and value to its replacement in the tree.
Convert = Callable[[tuple[str, ...], jax.Array], types.PyTree]


def plain(
  module: family.Model,
  params: types.PyTree,
  shardings: types.PyTree,
  keep: bool,
) -> types.PyTree:
  """Computes family.Model.plain_params one parameter at a time.

  Args:
    module: the model; each of its plain parameters depends only on the
      parameters at the same path.
    params: parameters of the model.
    shardings: shardings of the result.
    keep: whether to keep `params` instead of deleting them.
  """
  result: types.PyTree = {}
  abstract = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  shapes = jax.tree.map(abstract, params)
  for keys, sharding in traverse_util.flatten_dict(shardings).items():
    part = tensors.leaf(params, keys)

    def compute(part, keys=keys):
      # The compiler removes the computation of the other parameters.
      whole = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
      tensors.set_leaf(whole, keys, part)
      return tensors.leaf(module.plain_params(whole), keys)

    value = jax.jit(compute, out_shardings=sharding)(part)
    if not keep:
      _delete(part, value)
    tensors.set_leaf(result, keys, value)
  return result


def convert_each(
  params: types.PyTree,
  convert: Convert,
) -> types.PyTree:
  """Converts parameters one by one.

  Args:
    params: dicts of arrays; deleted unless `convert` returns them.
    convert: see Convert.
  """
  result: types.PyTree = {}
  for keys, array in traverse_util.flatten_dict(params).items():
    value = convert(keys, array)
    _delete(array, value)
    tensors.set_leaf(result, keys, value)
  return result


def _delete(old, new):
  """Deletes old arrays once the new ones have been computed from them."""
  kept = {id(x) for x in jax.tree.leaves(jax.block_until_ready(new))}
  for array in jax.tree.leaves(old):
    if id(array) not in kept:
      array.delete()


def stored(
  module: quantized_model.StoredModel,
  params: types.PyTree,
  shardings: types.PyTree,
) -> types.PyTree:
  """Quantizes plain parameters one by one.

  Args:
    module: the model with the quantization schemes.
    params: plain parameters, which are deleted.
    shardings: shardings of the result.
  """
  return convert_each(params, quantizer(module, shardings))


def quantizer(
  module: quantized_model.StoredModel, shardings: types.PyTree
) -> Convert:
  """Returns a function that quantizes and deletes a parameter; see `stored`."""

  def convert(keys, array):
    store = jax.jit(
      functools.partial(module.quantize, keys),
      out_shardings=tensors.leaf(shardings, keys),
      donate_argnums=0,
    )
    return store(array)

  return convert
