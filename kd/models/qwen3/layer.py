"""A layer of Qwen3 (arXiv 2505.09388)."""

from flax import linen as nn

from kd.models import decoder_layer


class Layer(decoder_layer.DecoderLayer):
  """Attention and a SwiGLU MLP, each with a norm before it."""

  style = decoder_layer.Style(
    norm_offset=0.0, activation=nn.silu, has_post_norms=False
  )
