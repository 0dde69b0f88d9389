"""Accumulates the sums behind importance scores, batch by batch.

With a_t the activation of a channel at position t of row b, and the mean over
the row's tokens that are not padding:

  channel   sum over b of (mean over t of |a_t|)^2; its root is the L2 norm
            over rows
  head      the same for the L2 norm over head_dim
  layer     sum over all tokens of 1 - cosine(layer input, layer output)
  maps      sum over all queries of the cosine of two heads' attention
            probabilities, for each pair of heads that share a KV head

The sums stay on the devices. Activations exist only within their layer.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kd.core import attention_mask
from kd.core import types
from kd.models import family
from kd.models import layer_measures
from kd.partitioning import rules

Array = types.Array
Sums = dict[str, Array]

# Names of the sums. Shapes, in this order: [S], twice [S, D], [S, F], [S, N],
# [S, G, N / G, N / G], and a scalar, the number of tokens.
LAYERS = 'layers'
ATTENTION_WIDTH, MLP_WIDTH = 'attention_width', 'mlp_width'
CHANNELS, HEADS, SIMILARITY = 'channels', 'heads', 'similarity'
TOKENS = 'tokens'

_BY_ROW = (ATTENTION_WIDTH, MLP_WIDTH, CHANNELS, HEADS)
# Largest array of attention probabilities: rows x heads x queries x keys.
_PROBABILITIES = 2**25
_MASKED = -1e30


def shapes(config: family.Config) -> dict[str, tuple[int, ...]]:
  """Returns the shape of each sum over all layers, by name."""
  c = config
  per_group = c.num_heads // c.num_kv_heads
  of_layer = {
    LAYERS: (),
    ATTENTION_WIDTH: (c.embed_dim,),
    MLP_WIDTH: (c.embed_dim,),
    CHANNELS: (c.mlp_dim,),
    HEADS: (c.num_heads,),
    SIMILARITY: (c.num_kv_heads, per_group, per_group),
  }
  by_layer = {k: (c.num_layers, *shape) for k, shape in of_layer.items()}
  return by_layer | {TOKENS: ()}


def zeros(config: family.Config) -> dict[str, np.ndarray]:
  """Returns the initial sums."""
  return {k: np.zeros(s, np.float32) for k, s in shapes(config).items()}


def make(
  model: family.Model,
) -> Callable[[types.PyTree, Sums, types.Batch], Sums]:
  """Returns the function of (params, sums, batch) that adds a batch's rows.

  Rows are independent except for rounding; padding rows add nothing.
  """

  @jax.jit
  def add(params, sums, batch):
    counted = (batch.segment_ids > 0).astype(jnp.float32)
    tokens = counted.sum(axis=1, keepdims=True)
    mean = counted / jnp.maximum(tokens, 1.0)
    measures = _measures(counted, mean, model.config.attention_scale)
    new = layer_measures.of(model, params, batch, mean, measures)
    for name in _BY_ROW:
      new[name] = jnp.sum(jnp.square(new[name]), axis=1)
    new[TOKENS] = counted.sum()
    # Replicated, so that each process can read them.
    return {
      name: total + rules.constrain(new[name], (None,) * total.ndim)
      for name, total in sums.items()
    }

  return add


def _measures(counted, mean, scale):
  """Returns the measures that are computed within layers.

  Args:
    counted: float32 [B, L], 1 for tokens that are not padding.
    mean: float32 [B, L], `counted` with rows that sum to 1.
    scale: factor of the attention scores.
  """

  def layer(x, y):
    return {LAYERS: jnp.sum(counted * (1 - _cosine(x, y)))}

  def attention_input(y):
    return {ATTENTION_WIDTH: _row_means(y, mean)}

  def heads(query, key, mask, attended):
    norms = jnp.sqrt(jnp.sum(jnp.square(_wide(attended)), axis=-1))
    return {
      HEADS: _row_means(norms, mean),
      SIMILARITY: _similarity(query, key, mask, scale, counted),
    }

  def mlp(y, hidden, mean):
    return {MLP_WIDTH: _row_means(y, mean), CHANNELS: _row_means(hidden, mean)}

  return layer_measures.Measures(layer, attention_input, heads, mlp)


def _wide(x):
  return x.astype(jnp.float32)


def _row_means(x, mean):
  """Returns [B, C], the weighted sum over positions of |x| with x [B, L, C]."""
  # Not a matrix product, which TPUs and GPUs would round.
  return jnp.sum(jnp.abs(_wide(x)) * mean[..., None], axis=1)


def _cosine(x, y):
  """Returns the cosine along the last axis, 0 where x or y is zero."""
  x, y = _wide(x), _wide(y)
  product = jnp.sum(x * y, axis=-1)
  squares = jnp.sum(x * x, axis=-1) * jnp.sum(y * y, axis=-1)
  return product * jax.lax.rsqrt(jnp.maximum(squares, jnp.finfo(x.dtype).tiny))


def _similarity(query, key, mask, scale, counted):
  """Sums cosines of heads' attention maps over queries: [G, N / G, N / G].

  Processes a few queries at a time to bound the memory of the probabilities.
  """
  batch, length, heads, _ = query.shape
  groups = key.shape[2]
  per_group = heads // groups
  if per_group == 1:
    return jnp.broadcast_to(counted.sum(), (groups, 1, 1))
  size = max(1, min(length, _PROBABILITIES // (batch * heads * length)))
  count = -(-length // size)
  padding = ((0, 0), (0, count * size - length))
  padded = lambda x: jnp.pad(x, padding + ((0, 0),) * (x.ndim - 2))
  row = jax.tree.map(padded, mask.row)
  query, counted = padded(query), padded(counted)

  def step(total, start):
    part = lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)
    seen = attention_mask.visible(row.part(start, size), mask.row, mask.window)
    grouped = part(query).reshape(batch, size, groups, per_group, -1)
    scores = scale * jnp.einsum(
      'blgrh,bmgh->bgrlm',
      grouped,
      key,
      preferred_element_type=jnp.float32,
    )
    maps = jax.nn.softmax(jnp.where(seen[:, None, None], scores, _MASKED))
    products = jnp.einsum(
      'bgrlm,bgslm->bgrsl', maps, maps, precision=jax.lax.Precision.HIGHEST
    )
    norms = jnp.sqrt(jnp.einsum('bgrrl->bgrl', products))
    cosines = products / (norms[:, :, :, None] * norms[:, :, None])
    weights = part(counted)[:, None, None, None]
    return total + jnp.sum(cosines * weights, axis=(0, 4)), None

  zero = jnp.zeros((groups, per_group, per_group), jnp.float32)
  starts = jnp.arange(count) * size
  return jax.lax.scan(step, zero, starts)[0]
