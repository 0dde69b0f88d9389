"""A layer of Gemma 3 (arXiv 2503.19786)."""

import functools

from flax import linen as nn

from kd.models import decoder_layer


class Layer(decoder_layer.DecoderLayer):
  """Attention and a GeGLU MLP, each with a norm before and after it."""

  style = decoder_layer.Style(
    norm_offset=1.0,  # A norm multiplies by 1 + scale.
    activation=functools.partial(nn.gelu, approximate=True),
    has_post_norms=True,
  )
