"""Converts images to the soft tokens of a text model."""

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import layers
from kd.models.vision import config as config_lib
from kd.models.vision import tower as tower_lib

Array = types.Array

# The scope of the tower's operations in a program.
VISION = 'vision'


class VisionOutputs(NamedTuple):
  """The outputs of a vision tower and its projector.

  Attributes:
    soft_tokens: [B, I x T, D], inputs of the text model.
    features: [B, I x T, E], see types.Images.
    layers: the outputs of n layers, averaged over the patches of each soft
      token, [n, B, I x T, E], or None.
  """

  soft_tokens: Array
  features: Array
  layers: Array | None


class Projector(nn.Module):
  """Maps the tower's outputs to the width of the text model.

  Attributes:
    config: the tower's sizes.
    text_dim: D.
    norm_offset: added to a norm's parameter to get its multiplier.
  """

  config: config_lib.VisionConfig
  text_dim: int
  norm_offset: float

  @nn.compact
  def __call__(self, x):
    """Maps outputs averaged over squares, [B, I x T, E], to [B, I x T, D]."""
    norm = layers.RMSNorm(
      self.config.norm_epsilon, 'norm', self.norm_offset, name='norm'
    )
    kernel = self.param(
      'kernel',
      nn.with_logical_partitioning(
        nn.initializers.lecun_normal(), ('embed', None)
      ),
      (self.config.embed_dim, self.text_dim),
      jnp.float32,
    )
    return norm(x) @ kernel.astype(x.dtype)


class Vision(nn.Module):
  """The tower and the projector.

  Attributes:
    config: the tower's sizes.
    text_dim: D.
    norm_offset: see Projector.
    dtype: data type of activations.
    remat: a name of layer_stack.REMAT_POLICIES.
  """

  config: config_lib.VisionConfig
  text_dim: int
  norm_offset: float
  dtype: jnp.dtype
  remat: str

  @nn.compact
  def __call__(self, images, layers=()):
    """Computes soft tokens.

    Args:
      images: types.Images; the tower does not run if it has features.
      layers: the tower's layers whose outputs are also returned; static.

    Raises:
      ValueError: outputs of layers are requested, but the tower does not run.
    """
    features, shown = images.features, None
    with jax.named_scope(VISION):
      if features is None:
        features, shown = self._features(images.pixels, layers)
      elif layers:
        raise ValueError(
          "cannot return tower layers: the tower's features were passed in"
        )
      projector = Projector(
        self.config, self.text_dim, self.norm_offset, name='projector'
      )
      soft_tokens = projector(features.astype(self.dtype))
    return VisionOutputs(soft_tokens, features, shown)

  def _features(self, pixels, layers):
    """Runs the tower on [B, I, S, S, 3]."""
    c = self.config
    tower = tower_lib.Tower(c, self.dtype, self.remat, name='tower')
    x, shown = tower(pixels.reshape(-1, *pixels.shape[2:]), layers)
    rows, images = pixels.shape[:2]
    shape = rows, images * c.soft_tokens, c.embed_dim
    if layers:
      shown = shown.reshape(len(layers), *shape)
    return tower_lib.pooled(x, c).reshape(shape), shown


def features(
  config: config_lib.VisionConfig,
  dtype: jnp.dtype,
  params: types.PyTree,
  pixels: Array,
) -> Array:
  """Returns a tower's features of images, see types.Images.

  Args:
    config: the tower's sizes.
    dtype: data type of activations.
    params: the tower's parameters.
    pixels: uint8 [n, S, S, 3].

  Returns:
    [n, T, E].
  """
  tower = tower_lib.Tower(config, dtype, 'none')
  x, _ = tower.apply({'params': params}, pixels)
  return tower_lib.pooled(x, config)


def placed(x: Array, soft_tokens: Array, index: Array) -> Array:
  """Returns embeddings with soft tokens at the positions of images.

  Args:
    x: [B, L, D], embeddings of all tokens.
    soft_tokens: [B, I x T, D].
    index: int32 [B, L], see types.Images.

  Returns:
    [B, L, D] in the type of x.
  """
  chosen = jnp.take_along_axis(
    soft_tokens, jnp.maximum(index, 0)[..., None], axis=1
  )
  return jnp.where(index[..., None] >= 0, chosen.astype(x.dtype), x)


def tapped(
  seen: VisionOutputs, index: Array, spec: types.TapSpec
) -> dict[str, Array | None]:
  """Returns the fields of types.Taps for a tower.

  Args:
    seen: the outputs for the images.
    index: int32 [B, L], see types.Images.
    spec: the requested layer outputs.
  """

  def put(x):
    zeros = jnp.zeros((*index.shape, x.shape[-1]), x.dtype)
    return placed(zeros, x, index)

  return {
    'tower': jax.vmap(put)(seen.layers) if spec.tower else None,
    'soft_tokens': put(seen.soft_tokens)[None] if spec.soft_tokens else None,
    'features': seen.features[None] if spec.features else None,
  }
