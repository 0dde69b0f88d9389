"""A layer of Gemma 3 (arXiv 2503.19786)."""

import functools

from flax import linen as nn
from jax import ad_checkpoint

from kd.models import family
from kd.models import layer_stack
from kd.models import layers
from kd.models import matmul
from kd.partitioning import rules

NORM_OFFSET = 1.0  # A norm multiplies by 1 + scale.
_gelu = functools.partial(nn.gelu, approximate=True)


def _mlp_block(epsilon, axes, x, before, gate, up, down, after):
  """Returns [B, L, D], x plus the MLP's output; `axes` are those of x."""
  y = layers.rms_norm(x, before, epsilon, NORM_OFFSET)
  y = layers.gated_mlp(_gelu, axes, y, gate, up, down)
  return x + layers.rms_norm(y, after, epsilon, NORM_OFFSET)


class Layer(nn.Module):
  """Attention and a GeGLU MLP, each with a norm before and after it.

  Attributes:
    config: the model's sizes.
    shows_heads: whether queries, keys and values are returned.
    kernel: see layers.Attention.
  """

  config: family.Config
  shows_heads: bool
  kernel: str

  @nn.compact
  def __call__(self, x, angles, seen, cache, slots):
    """Maps x [B, L, D] and this layer's cache; see layers.Attention.

    Returns:
      [B, L, D], the updated cache, and (query, key, value) or None.
    """
    # Only a named value can be saved in the host's memory.
    x = ad_checkpoint.checkpoint_name(x, layer_stack.LAYER_INPUT)
    axes = layers.BY_ROW_AXES if cache is None else layers.DECODING_AXES
    epsilon, width = self.config.norm_epsilon, self.config.embed_dim

    def norm(name):
      return layers.RMSNorm(epsilon, 'norm', NORM_OFFSET, name=name)

    attended, cache, heads = layers.Attention(
      self.config, NORM_OFFSET, self.kernel, name='attention'
    )(norm('pre_attention_norm')(x), angles, seen, cache, slots)
    x = x + norm('post_attention_norm')(attended)
    # One function of each position, which is all that the gradient of a long
    # row computes once more.
    x = matmul.by_position(
      functools.partial(_mlp_block, epsilon, axes),
      x,
      (
        norm('pre_mlp_norm').scale(width),
        *layers.MLP(self.config, name='mlp').weights(),
        norm('post_mlp_norm').scale(width),
      ),
      (
        layers.NORM_AXES,
        *(layers.WIDE_AXES, layers.WIDE_AXES, layers.NARROW_AXES),
        layers.NORM_AXES,
      ),
    )
    x = rules.constrain(x, axes)
    return x, cache, heads if self.shows_heads else None
