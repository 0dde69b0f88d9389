"""Gemma 3, text (arXiv 2503.19786)."""

from flax import linen as nn

from kd.core import types
from kd.models import layers
from kd.models import transformer
from kd.models.gemma3 import config as config_lib
from kd.models.gemma3 import layer

Array = types.Array


class Gemma3(transformer.Transformer):
  """The transformer of Gemma 3; see transformer.Transformer."""

  layer_type = layer.Layer
  norm_offset = layer.Layer.style.norm_offset

  @property
  def embedding_scale(self) -> float:
    """The square root of D: 33.94 for D = 1152, and 34.0 in bfloat16."""
    return self.config.embed_dim**0.5

  @nn.nowrap
  def angles(self, positions: Array) -> dict[str, Array]:
    """Returns rotary angles [B, L, H / 2] by kind, for positions [B, L]."""
    c = self.config
    return {
      config_lib.LOCAL: layers.rotary_angles(
        positions, c.head_dim, c.local_rope_base, 1.0
      ),
      config_lib.GLOBAL: layers.rotary_angles(
        positions, c.head_dim, c.global_rope_base, c.global_rope_factor
      ),
    }
