"""A tiny model with a vision tower, its parameters and pictures, for tests."""

import dataclasses
import io

import jax
import numpy as np
from PIL import Image

from kd.core import types
from kd.models import families
from kd.models.vision import config as config_lib

TOWER = config_lib.VisionConfig(
  image_size=16,
  patch_size=4,
  embed_dim=12,
  mlp_dim=16,
  num_heads=2,
  num_layers=3,
  norm_epsilon=1e-6,
  tokens_per_side=2,
)
SIZES = dataclasses.replace(
  families.variant('nano', ''), layer_kinds=('global',), vision=TOWER
)


def params(shapes: types.PyTree, deviation: float = 0.25) -> types.PyTree:
  """Returns normal values of mean 0 in the shapes of a tree."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: (deviation * rng.normal(size=x.shape)).astype(np.float32), shapes
  )


def png(seed: int, side: int = TOWER.image_size) -> bytes:
  """Returns a file with a square of random pixels."""
  shape = side, side, 3
  pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'PNG')
  return file.getvalue()
