"""Measures activations inside layers during a forward pass.

Only the measurements are returned, so no activation of a layer outlives the
layer.
"""

from collections.abc import Callable, Mapping
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from kd.core import attention_mask
from kd.core import types
from kd.models import decoder_layer
from kd.models import family
from kd.models import layer_stack
from kd.models import layers
from kd.models import matmul

Array = types.Array
Measured = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Measures:
  """Functions of one layer's activations; each returns arrays by name.

  Attributes:
    layer: function of the layer's input and output, both [B, L, D].
    attention_input: function of the output [B, L, D] of the norm before
      attention.
    heads: function of query [B, L, N, H], key [B, L, G, H], the attention mask
      and the input [B, L, N, H] of the out projection.
    mlp: function of the output [B, L, D] of the norm before the MLP, the input
      [B, L, F] of the down projection and weights [B, L], which returns sums
      over positions; called with a slice of positions at a time.
  """

  layer: Callable[[Array, Array], Measured]
  attention_input: Callable[[Array], Measured]
  heads: Callable[[Array, Array, attention_mask.AttentionMask, Array], Measured]
  mlp: Callable[[Array, Array, Array], Measured]


def of(
  model: family.Model,
  params: types.PyTree,
  batch: types.Batch,
  weights: Array,
  measures: Measures,
) -> dict[str, Array]:
  """Runs whole rows and measures every layer.

  Args:
    model: the model.
    params: its parameters.
    batch: rows of [B, L].
    weights: float32 [B, L], passed to `measures.mlp`.
    measures: the functions to compute.

  Returns:
    The results of `measures` by name, each with layers along a new first axis.
  """

  def intercept(call, args, kwargs, context):
    result = call(*args, **kwargs)
    measured = _measure(context, args, result, weights, measures)
    for name, value in measured.items():
      context.module.sow(
        layer_stack.MEASURED,
        name,
        value,
        init_fn=lambda: None,
        reduce_fn=lambda _, new: new,
      )
    return result

  # Without gradients, rematerialization would only wrap the layers.
  model = model.clone(remat='none')
  with nn.intercept_methods(intercept):
    _, state = model.apply(
      {'params': params},
      batch.tokens,
      batch.positions,
      batch.segment_ids,
      images=batch.images,
      mutable=[layer_stack.MEASURED],
    )
  return _by_name(model.config, state[layer_stack.MEASURED])


def _measure(context, args, result, weights, measures):
  module, method = context.module, context.method_name
  if isinstance(module, decoder_layer.DecoderLayer):
    if method == '__call__':
      return measures.layer(args[0], result[0])
    if method == 'add_mlp':
      return _measure_mlp(module, args, weights, measures)
  elif isinstance(module, layers.Attention):
    if method == '__call__':
      return measures.attention_input(args[0])
    if method == 'attend':
      query, key, _, mask = args
      return measures.heads(query, key, mask, result)
  return {}


def _measure_mlp(layer, args, weights, measures):
  x, (before, gate, up, *_), _, axes = args
  style, epsilon = layer.style, layer.config.norm_epsilon

  def measure(x, weights):
    # Where rows are not sliced, the compiler merges this with the layer's own.
    y = layers.rms_norm(x, before, epsilon, style.norm_offset)
    hidden = layers.gated_hidden(style.activation, axes, y, gate, up)
    return measures.mlp(y, hidden, weights)

  return matmul.sum_by_position(measure, x, weights)


def _by_name(config, state):
  """Returns the measurements by name, stacked over layers."""
  by_layer = []
  for layer in range(config.num_layers):
    own = layer_stack.params_of(config, state, layer)
    leaves = jax.tree_util.tree_leaves_with_path(own)
    by_layer.append({path[-1].key: value for path, value in leaves})
  return {
    name: jnp.stack([measured[name] for measured in by_layer])
    for name in by_layer[0]
  }
