"""Operations of a tower by formula, and as XLA counts them."""

import jax
import jax.numpy as jnp
import numpy as np

from kd.core import types
from kd.models.vision import config as config_lib
from kd.models.vision import vision
from kd.planning.cost import tower_flops

_CONFIG = config_lib.VisionConfig(
  image_size=64,
  patch_size=8,
  embed_dim=96,
  mlp_dim=256,
  num_heads=4,
  num_layers=1,  # The compiler's count has a loop's body once.
  norm_epsilon=1e-6,
  tokens_per_side=4,
)
# Of the published 4B: all parameters, and those of its text model.
_WHOLE, _TEXT = 4_300_079_472, 3_880_263_168


def test_the_formula_counts_the_products_that_the_compiler_counts():
  module = vision.Vision(_CONFIG, 128, 1.0, jnp.float32, 'none')
  pixels = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), np.uint8)
  index = jax.ShapeDtypeStruct((1, 1), np.int32)
  images = types.Images(pixels, index)
  params = jax.eval_shape(module.init, jax.random.key(0), images)
  compiled = jax.jit(module.apply).lower(params, images).compile()
  counted = compiled.cost_analysis()['flops']
  expected = tower_flops.tower(_CONFIG) + tower_flops.projector(_CONFIG, 128)
  # The compiler also counts norms, activations and biases.
  assert expected < counted < 1.06 * expected


def test_the_published_tower_has_the_published_number_of_parameters():
  assert config_lib.SIGLIP.parameter_count(2560) == _WHOLE - _TEXT
