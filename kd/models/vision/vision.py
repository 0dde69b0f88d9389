"""Images to the soft tokens that a text model reads."""

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


class Projector(nn.Module):
  """Maps the tower's outputs to the width of the text model.

  Attributes:
    config: the tower's sizes.
    text_dim: D.
    norm_offset: a norm multiplies by its parameter plus this.
  """

  config: config_lib.VisionConfig
  text_dim: int
  norm_offset: float

  @nn.compact
  def __call__(self, x):
    """Maps outputs averaged over squares, [B, T, E], to [B, T, D]."""
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
    norm_offset: a norm of the projector multiplies by its parameter plus this.
    dtype: data type of activations.
    remat: a name of layer_stack.REMAT_POLICIES.
  """

  config: config_lib.VisionConfig
  text_dim: int
  norm_offset: float
  dtype: jnp.dtype
  remat: str

  @nn.compact
  def __call__(self, pixels, layers=()):
    """Computes soft tokens.

    Args:
      pixels: uint8 [B, I, S, S, 3].
      layers: of the tower, whose outputs are returned too; static.

    Returns:
      [B, I x T, D]; and the outputs of n layers, averaged over the patches of
      each soft token, [n, B, I x T, E], or None.
    """
    rows, images = pixels.shape[:2]
    with jax.named_scope(VISION):
      tower = tower_lib.Tower(self.config, self.dtype, self.remat, name='tower')
      x, shown = tower(pixels.reshape(-1, *pixels.shape[2:]), layers)
      x = tower_lib.pooled(x, self.config)
      projector = Projector(
        self.config, self.text_dim, self.norm_offset, name='projector'
      )
      soft_tokens = projector(x)
    places = rows, images * self.config.soft_tokens
    if layers:
      shown = shown.reshape(len(layers), *places, self.config.embed_dim)
    return soft_tokens.reshape(*places, self.text_dim), shown


def placed(x: Array, soft_tokens: Array, index: Array) -> Array:
  """Returns embeddings with soft tokens at the places of images.

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
  soft_tokens: Array, layers: Array | None, index: Array, spec: types.TapSpec
) -> dict[str, Array | None]:
  """Returns the fields of types.Taps that a spec asks of a tower.

  Args:
    soft_tokens: [B, I x T, D].
    layers: [n, B, I x T, E], or None.
    index: int32 [B, L], see types.Images.
    spec: the layer outputs.
  """

  def put(x):
    zeros = jnp.zeros((*index.shape, x.shape[-1]), x.dtype)
    return placed(zeros, x, index)

  return {
    'tower': jax.vmap(put)(layers) if spec.tower else None,
    'soft_tokens': put(soft_tokens)[None] if spec.soft_tokens else None,
  }
