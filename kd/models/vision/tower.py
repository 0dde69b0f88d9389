"""The vision tower: a SigLIP encoder (arXiv 2303.15343)."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import layer_stack
from kd.models.vision import config as config_lib
from kd.partitioning import rules

Array = types.Array

_AXES = ('batch', None, None)
_MIDDLE = 127.5  # Middle of the range of pixel values, 0 to 255.
# Patches whose attention is computed at a time. The scores of all of an image's
# 4,096 patches would be 1 GB in float32.
_QUERIES = 512
_dense_init = nn.initializers.lecun_normal()


def _parameter(module, name, init, shape, axes):
  return module.param(
    name, nn.with_logical_partitioning(init, axes), shape, jnp.float32
  )


class Linear(nn.Module):
  """A linear map with a bias.

  Attributes:
    outputs: the number of outputs.
    axes: logical axes of the matrix.
  """

  outputs: int
  axes: tuple[str, str]

  @nn.compact
  def __call__(self, x):
    """Maps [..., inputs] to [..., outputs]."""
    shape = x.shape[-1], self.outputs
    kernel = _parameter(self, 'kernel', _dense_init, shape, self.axes)
    bias = _parameter(
      self, 'bias', nn.initializers.zeros, shape[1:], self.axes[1:]
    )
    return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)


class LayerNorm(nn.Module):
  """Normalizes the mean and the variance of the last axis, in float32.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float

  @nn.compact
  def __call__(self, x):
    """Normalizes x [..., E]; keeps its type."""
    shape, axes = x.shape[-1:], ('norm',)
    scale = _parameter(self, 'scale', nn.initializers.ones, shape, axes)
    bias = _parameter(self, 'bias', nn.initializers.zeros, shape, axes)
    wide = x.astype(jnp.float32)
    centered = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
    normed = centered * jax.lax.rsqrt(variance + self.epsilon)
    return (normed * scale + bias).astype(x.dtype)


def attend(query: Array, key: Array, value: Array) -> Array:
  """Computes attention of all patches to all patches: [B, P, N, H].

  It is computed for a few queries at a time, and gradients recompute scores.
  """
  patches = query.shape[1]
  if patches <= _QUERIES:
    return jax.nn.dot_product_attention(query, key, value)
  blocks = -(-patches // _QUERIES)
  padded = jnp.pad(
    query, ((0, 0), (0, blocks * _QUERIES - patches), (0, 0), (0, 0))
  )
  by_block = jnp.moveaxis(
    padded.reshape(query.shape[0], blocks, _QUERIES, *query.shape[2:]), 1, 0
  )

  @jax.checkpoint
  def one(block):
    return jax.nn.dot_product_attention(block, key, value)

  attended = jnp.moveaxis(jax.lax.map(one, by_block), 0, 1)
  return attended.reshape(padded.shape)[:, :patches]


class Layer(nn.Module):
  """Attention and an MLP, each with a LayerNorm before it.

  Attributes:
    config: the tower's sizes.
    shown: whether its output is returned for losses, averaged over squares.
  """

  config: config_lib.VisionConfig
  shown: bool

  @nn.compact
  def __call__(self, x, _):
    """Maps x [B, P, E]; also returns [B, T, E] if it is shown, else None."""
    c = self.config
    heads = (*x.shape[:2], c.num_heads, c.embed_dim // c.num_heads)

    def project(name, y, axes=('embed', 'heads')):
      return Linear(c.embed_dim, axes, name=name)(y)

    y = LayerNorm(c.norm_epsilon, name='attention_norm')(x)
    query, key, value = (
      project(name, y).reshape(heads) for name in ('query', 'key', 'value')
    )
    attended = attend(query, key, value).reshape(x.shape)
    x = x + project('out', attended, ('heads', 'embed'))
    y = LayerNorm(c.norm_epsilon, name='mlp_norm')(x)
    y = Linear(c.mlp_dim, ('embed', 'mlp'), name='up')(y)
    y = nn.gelu(y, approximate=True)
    x = x + Linear(c.embed_dim, ('mlp', 'embed'), name='down')(y)
    x = rules.constrain(x, _AXES)
    return x, pooled(x, c) if self.shown else None


class Tower(nn.Module):
  """Maps patches of images to their outputs after the final norm.

  Attributes:
    config: its sizes.
    dtype: data type of activations.
    remat: a name of layer_stack.REMAT_POLICIES.
  """

  config: config_lib.VisionConfig
  dtype: jnp.dtype
  remat: str

  @nn.compact
  def __call__(self, pixels, layers=()):
    """Encodes images.

    Args:
      pixels: uint8 [B, S, S, 3].
      layers: layers whose outputs are also returned; static.

    Returns:
      [B, P, E], patches row by row; and the outputs of n layers, averaged over
      squares, [n, B, T, E], or None.
    """
    c = self.config
    x = patches(pixels, c).astype(self.dtype)
    x = Linear(c.embed_dim, (None, 'embed'), name='embedding')(x)
    positions = _parameter(
      self,
      'positions',
      nn.initializers.normal(c.embed_dim**-0.5),
      (c.patches, c.embed_dim),
      (None, 'embed'),
    )
    x = rules.constrain(x + positions.astype(x.dtype), _AXES)
    layer = Layer
    if self.remat != 'none':
      layer = nn.remat(layer, policy=layer_stack.REMAT_POLICIES[self.remat])
    x, shown = nn.scan(
      layer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=c.num_layers,
      metadata_params={nn.PARTITION_NAME: 'tower_layers'},
      check_constancy_invariants=self.is_initializing(),
    )(c, bool(layers), name='layers')(x, None)
    if layers:
      shown = shown[jnp.array(layers)]
    return LayerNorm(c.norm_epsilon, name='final_norm')(x), shown


def patches(pixels: Array, config: config_lib.VisionConfig) -> Array:
  """Cuts images into patches, values from -1 to 1.

  Args:
    pixels: uint8 [B, S, S, 3].
    config: the tower's sizes.

  Returns:
    float32 [B, P, 3 p p], patches row by row; within each, color by color, row
    by row.
  """
  side, p = config.patches_per_side, config.patch_size
  x = pixels.reshape(-1, side, p, side, p, 3)
  x = jnp.transpose(x, (0, 1, 3, 5, 2, 4))
  x = x.reshape(-1, config.patches, config.patch_values)
  return (x.astype(jnp.float32) - _MIDDLE) / _MIDDLE


@functools.partial(jax.jit, static_argnums=1)
def pooled(x: Array, config: config_lib.VisionConfig) -> Array:
  """Averages patches over squares: [B, P, E] to [B, T, E], in x's type."""
  side = config.tokens_per_side
  square = config.patches_per_side // side
  shape = (-1, side, square, side, square, x.shape[-1])
  mean = jnp.mean(x.reshape(shape).astype(jnp.float32), axis=(2, 4))
  return mean.reshape(-1, config.soft_tokens, x.shape[-1]).astype(x.dtype)
