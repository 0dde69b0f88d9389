"""Qwen3, dense text models (arXiv 2505.09388)."""

from flax import linen as nn

from kd.core import types
from kd.models import layers
from kd.models import transformer
from kd.models.qwen3 import config as config_lib
from kd.models.qwen3 import layer

Array = types.Array


class Qwen3(transformer.Transformer):
  """The transformer of Qwen3; see transformer.Transformer."""

  layer_type = layer.Layer
  norm_offset = layer.Layer.style.norm_offset

  @nn.nowrap
  def angles(self, positions: Array) -> dict[str, Array]:
    """Returns rotary angles [B, L, H / 2] by kind, for positions [B, L]."""
    c = self.config
    angles = layers.rotary_angles(positions, c.head_dim, c.rope_base, 1.0)
    return {config_lib.FULL: angles}
