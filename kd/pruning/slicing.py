"""Slices a model's parameters to the kept parts.

Pruning is equivalent to masking: the pruned model computes the same function as
the full model with the removed channels and heads set to zero. For channels of
the embedding, slicing alone is not enough. A norm divides by the root of the
mean over D channels, of which the pruned model has only D', so its weight is
multiplied by sqrt(D / D'). If input embeddings are scaled by a function of D,
such as Gemma's sqrt(D), the embedding is multiplied by the ratio of the scales.
If it is also the output embedding, the final norm's weight is divided by that
ratio. The norms' epsilon is not adapted, although it would have to be
epsilon D / D'. The relative error is about epsilon over the mean square of the
activations.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from kd.checkpoints import weights
from kd.core import types
from kd.models import families
from kd.models import family
from kd.models import tensors as tensors_lib
from kd.pruning import selection as selection_lib


def prune(
  params: types.PyTree,
  source: family.Config,
  target: family.Config,
  selection: selection_lib.Selection,
  shardings: types.PyTree | None = None,
) -> types.PyTree:
  """Returns the parameters of the pruned model, float32.

  Args:
    params: parameters of the full model.
    source: config of the full model.
    target: config of the pruned model.
    selection: the kept parts.
    shardings: a tree of jax.sharding.Sharding like the result; None: chosen by
      the compiler.
  """
  leaves = weights.by_leaf(source, selection.layers)
  top_factors = _top_factors(source, target)

  def one(params, pair):
    kept, origin = pair
    leaf = tensors_lib.leaf(params, origin.path)
    array = leaf if origin.group is None else leaf[origin.group]
    array = array.astype(jnp.float32)
    for axis, letter in enumerate(origin.dims):
      indices = _indices(selection, letter, kept.layer)
      if indices is not None and len(indices) < array.shape[axis]:
        array = jnp.take(array, indices, axis=axis)
    factor = 1.0
    if origin.layer is None:
      factor = top_factors.get(origin.path, 1.0)
    elif origin.dims == 'D':
      factor = _width_factor(source, target)
    # A norm multiplies by its parameter plus this offset.
    offset = origin.gguf_offset
    return array if factor == 1 else (array + offset) * factor - offset

  def take(params):
    result = {}
    for path, pairs in leaves.items():
      parts = [one(params, pair) for pair in pairs]
      stacked = pairs[0][0].group is not None
      array = jnp.stack(parts) if stacked else jnp.copy(parts[0])
      tensors_lib.set_leaf(result, path, array)
    return result

  return jax.jit(take, out_shardings=shardings)(params)


def _indices(selection, letter, layer) -> np.ndarray | None:
  """Returns the indices to keep along a dimension; None: all.

  Args:
    selection: the kept parts.
    letter: letter of the dimension; see tensors.Entry.
    layer: index among the kept layers; None outside of layers.
  """
  if letter == 'D':
    return selection.width
  of_layers = {'F': selection.channels, 'N': selection.heads}
  return of_layers[letter][layer] if letter in of_layers else None


def _width_factor(source, target):
  """Returns the factor of the weights of norms over D."""
  return (source.embed_dim / target.embed_dim) ** 0.5


def _top_factors(
  source: family.Config, target: family.Config
) -> Mapping[tuple[str, ...], float]:
  """Returns the factors of the input embedding and the final norm, by path."""
  top = [t for t in families.of(source).tensors(source) if t.layer is None]
  embedding = next(t for t in top if t.is_table)
  # A vision tower's output is not scaled: its projector is only sliced.
  (norm,) = (t for t in top if not t.is_table and not t.is_vision)
  before, after = (
    families.build(config, 'float32', 'none', 'student').embedding_scale
    for config in (source, target)
  )
  ratio = 1.0 if before is None else before / after
  final = _width_factor(source, target) / (ratio if source.tied else 1.0)
  return {embedding.path: ratio, norm.path: final}
