"""Decodes with a Transformer: prompts to a KV cache, then token by token.

Layers are not scanned here. Each layer's weights and cache are separate arrays,
since XLA would copy a layer's part of stacked arrays at every token.
transformer.Transformer has these functions as methods.
"""

import functools
import math

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import computed
from kd.models import embedding as embedding_lib
from kd.models import families
from kd.models import layer_stack
from kd.models import layers
from kd.models import matmul
from kd.models import tensors as tensors_lib
from kd.models.attention import attention
from kd.partitioning import rules

Array = types.Array
PyTree = types.PyTree

# A (key, value) pair of [B, M, G, H] per layer; position p is in slot p % M.
# For a global layer M is the maximum number of positions. For a local layer it
# is at most its window: later positions do not see those that were overwritten.
Cache = tuple[tuple[Array, Array], ...]

CACHE_AXES = ('batch', None, 'kv_heads', None)
_BY_SLOT = (None, 'prompt_slots', 'kv_heads', None)


@struct.dataclass
class Weights:
  """Parameters in the form that decoding uses.

  Attributes:
    embedding: [V, D].
    layers: the parameters of each of the S layers, matrices as Operands.
    final_norm: the parameters of the final norm.
    head: [V, D], the output embedding if it is not tied, else None.
  """

  embedding: Array | computed.Operand
  layers: tuple[PyTree, ...]
  final_norm: PyTree
  head: Array | computed.Operand | None

  @property
  def unembedding(self) -> Array | computed.Operand:
    """The output embedding [V, D]."""
    return self.embedding if self.head is None else self.head


def weights(model: nn.Module, params: PyTree) -> Weights:
  """Unstacks layers, and casts matrices as the layers cast them.

  Otherwise decoding would read and cast float32 matrices at every token. The
  norms' parameters are not changed.

  Args:
    model: the Transformer.
    params: its parameters, in the form of training.
  """
  c = model.config
  outputs = {
    matrix.path: matrix.outputs
    for matrix in tensors_lib.matrices(families.of(c).tensors(c))
  }

  def table(name):
    leaf = _for_decoding(params[name])
    return (
      leaf if computed.stands_for_matrix(leaf) else leaf.astype(model.dtype)
    )

  def matrix(index, path, leaf):
    keys, _ = layer_stack.location(c, index)
    sizes = outputs.get(keys + tuple(key.key for key in path))
    leaf = _for_decoding(leaf)
    if sizes is None or computed.stands_for_matrix(leaf):
      return leaf
    flat = leaf.astype(model.dtype).reshape(-1, math.prod(sizes))
    return matmul.DenseMatrix(flat.T, sizes)

  def layer(index):
    return jax.tree_util.tree_map_with_path(
      functools.partial(matrix, index),
      layer_stack.params_of(c, params, index),
      is_leaf=computed.stands_for_matrix,
    )

  return Weights(
    table('embedding'),
    tuple(map(layer, range(c.num_layers))),
    params['final_norm'],
    None if c.tied else table('head'),
  )


def _for_decoding(leaf):
  return leaf.for_decoding() if isinstance(leaf, computed.Computed) else leaf


@jax.named_scope(layers.KV_CACHE)
def empty(model: nn.Module, batch: int, slots: int) -> Cache:
  """Returns an empty cache for `slots` positions in each of `batch` rows."""
  c = model.config

  def one(kind):
    held = _slots(c.window_of(kind), slots)
    shape = (batch, held, c.num_kv_heads, c.head_dim)
    return rules.constrain(jnp.zeros(shape, model.dtype), CACHE_AXES)

  return tuple((one(kind), one(kind)) for kind in c.layer_kinds)


def _slots(window, slots):
  return slots if window is None else min(slots, window)


def prefill(
  model: nn.Module,
  params: PyTree,
  tokens: Array,
  lengths: Array,
  images: types.Images | None = None,
) -> tuple[Array, Cache]:
  """Computes the hidden states and the cache of prompts.

  Args:
    model: the Transformer.
    params: its parameters, in the form of training.
    tokens: int32 [B, L], padded on the right.
    lengths: int32 [B], 0 to L, number of tokens of each row.
    images: the prompts' images, or None.

  Returns:
    [B, L, D], hidden states after the final norm, and a cache with L slots.
  """
  b, length = tokens.shape
  positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (b, length))
  hidden, shown = model.clone(kernel=attention.XLA).forward(
    params,
    types.Batch(
      tokens=tokens,
      targets=tokens,
      positions=positions,
      segment_ids=(positions < lengths[:, None]).astype(jnp.int32),
      parts=tokens,
      weights=jnp.zeros(tokens.shape, jnp.float32),
      row_id=lengths,
      images=images,
    ),
    types.TapSpec((), tuple(range(model.config.num_layers))),
  )

  @jax.named_scope(layers.KV_CACHE)
  def place(kind, x):
    slots = _slots(model.config.window_of(kind), length)
    if slots < length:
      last = (lengths - 1)[:, None]
      held = jnp.maximum(_positions(last, slots), 0)
      x = jnp.take_along_axis(x, held[:, :, None, None], axis=1)
    return rules.constrain(x.astype(model.dtype), CACHE_AXES)

  cache = tuple(
    (place(kind, shown.key[i]), place(kind, shown.value[i]))
    for i, kind in enumerate(model.config.layer_kinds)
  )
  return hidden, cache


def _positions(last: Array, slots: int) -> Array:
  """Returns the positions in a cache's slots, below 0 in unused slots.

  Args:
    last: int32 [B, 1], the latest position of each row.
    slots: M.

  Returns:
    int32 [B, M].
  """
  return last - (last - jnp.arange(slots, dtype=jnp.int32)) % slots


@jax.named_scope(layers.KV_CACHE)
def insert(cache: Cache, rows: Cache, take: Array, source: Array) -> Cache:
  """Replaces some rows of the cache with prompts' rows.

  Args:
    cache: cache of B rows.
    rows: cache of P rows with at most as many slots.
    take: bool [B], whether to replace a row of the cache.
    source: int32 [B], index into `rows` for each row of the cache.

  Returns:
    The new cache.
  """

  def pick(new):
    # A row's prompt may be on any device. If sharded by slots, rows are picked
    # locally; otherwise each device would gather all of them.
    return rules.constrain(rules.constrain(new, _BY_SLOT)[source], _BY_SLOT)

  def put(old, new):
    part = old[:, : new.shape[1]]
    picked = rules.constrain(pick(new), CACHE_AXES)
    part = jnp.where(take[:, None, None, None], picked, part)
    return rules.constrain(old.at[:, : new.shape[1]].set(part), CACHE_AXES)

  return jax.tree.map(put, cache, rows)


def extend(
  model: nn.Module,
  held: Weights,
  cache: Cache,
  ids: Array,
  positions: Array,
) -> tuple[Array, Cache]:
  """Computes hidden states of the next token of each row.

  Args:
    model: the Transformer.
    held: its weights.
    cache: cache of all earlier positions.
    ids: int32 [B].
    positions: int32 [B], positions of the ids in their rows.

  Returns:
    [B, D], hidden states after the final norm, and the updated cache.
  """
  c = model.config
  positions = positions[:, None]
  x = embedding_lib.embed_few(
    held.embedding, ids[:, None], model.dtype, model.embedding_scale
  )
  x = rules.constrain(x, layers.DECODING_AXES)
  angles = model.angles(positions)
  updated = []
  for kind, params, pair in zip(c.layer_kinds, held.layers, cache, strict=True):
    slots = pair[0].shape[1]
    seen = _positions(positions, slots)[:, None, :] >= 0
    x, pair, _ = model.layer_type(
      c, False, attention.XLA, model.round_inputs
    ).apply({'params': params}, x, angles[kind], seen, pair, positions % slots)
    updated.append(tuple(rules.constrain(array, CACHE_AXES) for array in pair))
  norm = layers.RMSNorm(c.norm_epsilon, 'norm', model.norm_offset)
  x = norm.apply({'params': held.final_norm}, x)
  return x[:, 0], tuple(updated)
