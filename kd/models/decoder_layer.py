"""The layer that decoder families share: attention and a gated MLP."""

from collections.abc import Callable
import dataclasses
import functools
from typing import ClassVar

from flax import linen as nn
from jax import ad_checkpoint

from kd.core import types
from kd.models import family
from kd.models import layer_stack
from kd.models import layers
from kd.models import matmul
from kd.partitioning import rules


@dataclasses.dataclass(frozen=True)
class Style:
  """The differences between families' layers, apart from sizes.

  Attributes:
    norm_offset: added to a norm's parameter to get its multiplier.
    activation: activation of the MLP's gate.
    has_post_norms: whether a norm also follows attention and the MLP.
  """

  norm_offset: float
  activation: Callable[[types.Array], types.Array]
  has_post_norms: bool


def _mlp_block(
  style, round_inputs, epsilon, axes, x, before, gate, up, down, *more
):
  """Returns [B, L, D], x plus the MLP's output; `axes` are those of x."""
  after, ranges = more[: style.has_post_norms], more[style.has_post_norms :]
  y = layers.rms_norm(x, before, epsilon, style.norm_offset)
  y = layers.gated_mlp(
    style.activation, round_inputs, axes, y, gate, up, down, ranges
  )
  for scale in after:
    y = layers.rms_norm(y, scale, epsilon, style.norm_offset)
  return x + y


class DecoderLayer(nn.Module):
  """Attention and a gated MLP, each with a norm before it.

  Attributes:
    style: style of the family's layers.
    config: the model's sizes.
    shows_heads: whether queries, keys and values are returned.
    kernel: see layers.Attention.
    round_inputs: rounding of the inputs of all products with weights.
  """

  style: ClassVar[Style]
  config: family.Config
  shows_heads: bool
  kernel: str
  round_inputs: layers.RoundInputs

  @nn.compact
  def __call__(self, x, angles, seen, cache, slots):
    """Maps x [B, L, D] and this layer's cache; see layers.Attention.

    Returns:
      [B, L, D], the updated cache, and (query, key, value) or None.
    """
    # Only a named value can be saved in host memory.
    x = ad_checkpoint.checkpoint_name(x, layer_stack.LAYER_INPUT)
    axes = layers.BY_ROW_AXES if cache is None else layers.DECODING_AXES
    epsilon, width = self.config.norm_epsilon, self.config.embed_dim
    style = self.style

    def norm(name):
      return layers.RMSNorm(epsilon, 'norm', style.norm_offset, name=name)

    mlp = layers.MLP(self.config, name='mlp')
    ranges = mlp.input_ranges()
    if ranges and cache is None:
      x = layers.without_padding(x, seen)
    attended, cache, heads = layers.Attention(
      self.config,
      style.norm_offset,
      self.kernel,
      self.round_inputs,
      name='attention',
    )(norm('pre_attention_norm')(x), angles, seen, cache, slots)
    if style.has_post_norms:
      attended = norm('post_attention_norm')(attended)
    x = x + attended
    weights = [norm('pre_mlp_norm').scale(width), *mlp.weights()]
    weight_axes = [
      layers.NORM_AXES,
      *(layers.WIDE_AXES, layers.WIDE_AXES, layers.NARROW_AXES),
    ]
    if style.has_post_norms:
      weights.append(norm('post_mlp_norm').scale(width))
      weight_axes.append(layers.NORM_AXES)
    weights += ranges
    weight_axes += [(matmul.MAXIMA,)] * len(ranges)
    x = self.add_mlp(x, tuple(weights), tuple(weight_axes), axes)
    x = rules.constrain(x, axes)
    return x, cache, heads if self.shows_heads else None

  def add_mlp(self, x, weights, weight_axes, axes):
    """Returns x plus the MLP's output.

    This is a separate method so that layer_measures can intercept it.
    """
    # A position-wise function, the only one that gradients of long rows
    # recompute.
    return matmul.by_position(
      functools.partial(
        _mlp_block,
        self.style,
        self.round_inputs,
        self.config.norm_epsilon,
        axes,
      ),
      x,
      weights,
      weight_axes,
    )
