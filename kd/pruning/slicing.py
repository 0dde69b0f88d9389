"""Cuts a model's parameters to what a pruned model keeps.

Pruning equals masking: the pruned model computes what the whole one does once
the channels and heads that are left out are set to zero. For the embedding's
channels that takes more than slices. A norm divides by the root of the mean
over D channels, of which the pruned model has D' only: its weight is multiplied
by sqrt(D / D'). Where input embeddings are scaled by a function of D, such as
Gemma's sqrt(D), the embedding is multiplied by the ratio, and where it is the
output embedding too, the final norm's weight divided by it. What remains is the
norms' epsilon, which would have to be epsilon D / D': a relative difference of
about epsilon over the mean square of the activations.
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
    params: the whole model's.
    source: its sizes.
    target: those of the pruned model.
    selection: what is kept.
    shardings: a tree of jax.sharding.Sharding like the result, or None to leave
      that to the compiler.
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
    # A norm multiplies by its parameter plus this.
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
    selection: what is kept.
    letter: of the dimension; see tensors.Entry.
    layer: the layer's index among those that are kept, None for no layer.
  """
  if letter == 'D':
    return selection.width
  of_layers = {'F': selection.channels, 'N': selection.heads}
  return of_layers[letter][layer] if letter in of_layers else None


def _width_factor(source, target):
  """Returns what the weights of norms of width D are multiplied by."""
  return (source.embed_dim / target.embed_dim) ** 0.5


def _top_factors(
  source: family.Config, target: family.Config
) -> Mapping[tuple[str, ...], float]:
  """Returns the factors of the input embedding and the final norm, by path."""
  top = [t for t in families.of(source).tensors(source) if t.layer is None]
  embedding = next(t for t in top if t.is_table)
  # What a vision tower adds to the stream is not scaled: its projector is cut.
  (norm,) = (t for t in top if not t.is_table and not t.is_vision)
  before, after = (
    families.build(config, 'float32', 'none', 'student').embedding_scale
    for config in (source, target)
  )
  ratio = 1.0 if before is None else before / after
  final = _width_factor(source, target) / (ratio if source.tied else 1.0)
  return {embedding.path: ratio, norm.path: final}
