"""Gemma 3, text: embedding, scanned layers, final norm.

The model ends at its final hidden states: logits are their product with the
embedding, and whoever needs them (losses, sampling) makes that product in the
shape that suits it, since [B, L, V] does not fit anywhere.
"""

import functools
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from kd.core import errors
from kd.core import types
from kd.models import gemma3_config
from kd.models import layers

Array = types.Array

# Names of `student.remat`: what the backward pass finds saved.
REMAT_POLICIES = {
  'none': None,
  'block': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@struct.dataclass
class Cache:
  """Keys and values of the positions seen so far.

  Attributes:
    pattern: for each layer of the period a (key, value) pair of
      [S // period, B, M, G, H].
    remainder: (key, value) of [B, M, G, H] for each layer after the scan.
    positions: int32 [B, M], the position in each slot.
    segment_ids: int32 [B, M], 0 in empty slots.
  """

  pattern: tuple[Any, ...]
  remainder: tuple[Any, ...]
  positions: Array
  segment_ids: Array


def empty_cache(
  config: gemma3_config.Gemma3Config, batch: int, slots: int, dtype: jnp.dtype
) -> Cache:
  """A cache with room for `slots` positions in each of `batch` rows."""
  shape = (batch, slots, config.num_kv_heads, config.head_dim)
  stacked = (config.scan_groups,) + shape
  left = config.num_layers % config.scan_period
  pair = lambda s: (jnp.zeros(s, dtype), jnp.zeros(s, dtype))
  return Cache(
    pattern=tuple(pair(stacked) for _ in range(config.scan_period)),
    remainder=tuple(pair(shape) for _ in range(left)),
    positions=jnp.zeros((batch, slots), jnp.int32),
    segment_ids=jnp.zeros((batch, slots), jnp.int32),
  )


def _masks(positions, segment_ids, key_positions, key_segment_ids, window):
  """Which keys a query sees, for each kind of layer: bool [B, 1, L, M]."""
  distance = positions[:, :, None] - key_positions[:, None, :]
  same = segment_ids[:, :, None] == key_segment_ids[:, None, :]
  seen = same & (key_segment_ids[:, None, :] > 0) & (distance >= 0)
  return {
    gemma3_config.GLOBAL: seen[:, None],
    gemma3_config.LOCAL: (seen & (distance < window))[:, None],
  }


class _Layers(nn.Module):
  """A few layers in a row, each with its kind: one period, or what is left."""

  config: gemma3_config.Gemma3Config
  dtype: jnp.dtype
  kinds: tuple[str, ...]
  remat: str

  @nn.compact
  def __call__(self, x, angles, masks, slots, caches):
    layer = layers.Layer
    if self.remat != 'none':
      layer = nn.remat(
        layer, policy=REMAT_POLICIES[self.remat], prevent_cse=False
      )
    updated = []
    for i, kind in enumerate(self.kinds):
      x, cache = layer(self.config, self.dtype, name=f'layer_{i}')(
        x, angles[kind], masks[kind], caches[i], slots
      )
      updated.append(cache)
    return x, tuple(updated)


class Gemma3(nn.Module):
  """The transformer.

  Attributes:
    config: its sizes.
    dtype: the type of activations; parameters are float32 whatever it is.
    remat: a name of REMAT_POLICIES.
  """

  config: gemma3_config.Gemma3Config
  dtype: jnp.dtype
  remat: str

  @nn.compact
  def __call__(self, tokens, positions, segment_ids, cache=None):
    """Runs the transformer.

    Args:
      tokens: int32 [B, L].
      positions: int32 [B, L], from 0 in each segment.
      segment_ids: int32 [B, L]; attention stays within equal ids, 0 is padding.
      cache: None, or the Cache that holds these rows' earlier positions; a
        position is written to the slot of its number.

    Returns:
      [B, L, D], hidden states after the final norm, and the updated cache.
    """
    c = self.config
    embedding = self.param(
      'embedding',
      nn.with_logical_partitioning(
        nn.initializers.normal(c.embed_dim**-0.5), ('vocab', 'embed')
      ),
      (c.vocab_size, c.embed_dim),
      jnp.float32,
    )
    # As published: the scale is rounded to the activations' type, so that it is
    # 34.0 for D = 1152 in bfloat16 and 33.94 in float32.
    scale = jnp.asarray(c.embed_dim**0.5, self.dtype)
    x = embedding[tokens].astype(self.dtype) * scale
    x = nn.with_logical_constraint(x, ('batch', 'length', 'embed_act'))
    if cache is not None:
      rows = jnp.arange(tokens.shape[0])[:, None]
      cache = cache.replace(
        positions=cache.positions.at[rows, positions].set(positions),
        segment_ids=cache.segment_ids.at[rows, positions].set(segment_ids),
      )
    keys = cache or _Uncached(positions, segment_ids)
    masks = _masks(
      positions, segment_ids, keys.positions, keys.segment_ids, c.window
    )
    angles = {
      gemma3_config.LOCAL: layers.rotary_angles(
        positions, c.head_dim, c.local_rope_base, 1.0
      ),
      gemma3_config.GLOBAL: layers.rotary_angles(
        positions, c.head_dim, c.global_rope_base, c.global_rope_factor
      ),
    }
    x, cache = self._run_layers(x, angles, masks, positions, cache)
    return layers.RMSNorm(c.norm_epsilon, 'norm', name='final_norm')(x), cache

  def _run_layers(self, x, angles, masks, positions, cache):
    c, p = self.config, self.config.scan_period
    rest = c.layer_kinds[c.scan_groups * p :]
    slots = None if cache is None else positions
    build = functools.partial(_Layers, c, self.dtype, remat=self.remat)
    scanned = nn.scan(
      _Layers,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0),
      length=c.scan_groups,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )(c, self.dtype, c.layer_kinds[:p], self.remat, name='pattern')
    stacked = (None,) * p if cache is None else cache.pattern
    x, pattern = scanned(x, angles, masks, slots, stacked)
    remainder = ()
    if rest:
      single = (None,) * len(rest) if cache is None else cache.remainder
      x, remainder = build(kinds=rest, name='remainder')(
        x, angles, masks, slots, single
      )
    if cache is not None:
      cache = cache.replace(pattern=pattern, remainder=remainder)
    return x, cache


@struct.dataclass
class _Uncached:
  """Without a cache the keys are the queries' own positions."""

  positions: Array
  segment_ids: Array


def build(
  config: gemma3_config.Gemma3Config, dtype: str, remat: str, path: str
) -> Gemma3:
  """Checks `dtype` and `remat` and builds the module.

  Args:
    config: the sizes.
    dtype: 'float32' or 'bfloat16'.
    remat: a name of REMAT_POLICIES.
    path: the config path of the model ('student'), for messages.

  Raises:
    ConfigError: one of the names is not legal.
  """
  if dtype == 'float16':
    raise errors.ConfigError(
      f'{path}.dtype',
      "found 'float16': Gemma 3's activations exceed its largest value",
      legal='float32, bfloat16',
      nearest='bfloat16',
    )
  if dtype not in ('float32', 'bfloat16'):
    raise errors.unknown(
      f'{path}.dtype', 'type', dtype, ('float32', 'bfloat16')
    )
  if remat not in REMAT_POLICIES:
    raise errors.unknown(f'{path}.remat', 'policy', remat, list(REMAT_POLICIES))
  return Gemma3(config, jnp.dtype(dtype), remat)


@functools.lru_cache(maxsize=32)  # Tracing takes a second or more.
def abstract_params(model: Gemma3) -> types.PyTree:
  """Shapes, and logical axis names, of the parameters; computes nothing.

  Returns:
    A tree of nn.LogicallyPartitioned boxes over jax.ShapeDtypeStruct.
  """
  shape = jax.ShapeDtypeStruct((1, 1), np.int32)
  return jax.eval_shape(model.init, jax.random.key(0), shape, shape, shape)[
    'params'
  ]


def logical_axes(model: Gemma3) -> types.PyTree:
  """The PartitionSpec of logical axis names of each parameter."""
  return nn.get_partition_spec(abstract_params(model))


def unbox(tree: types.PyTree) -> types.PyTree:
  """Drops the boxes of logical axis names."""
  return nn.unbox(tree)


def init_params(model: Gemma3, rng: Array) -> types.PyTree:
  """Random float32 parameters, without partitioning boxes."""
  one = jnp.ones((1, 1), jnp.int32)
  return nn.unbox(model.init(rng, one, one, one)['params'])
