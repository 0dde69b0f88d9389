"""A batch with kept features against the tower on its pixels."""

import dataclasses
import io

import jax
import numpy as np
from PIL import Image

from kd.core import types
from kd.images import features
from kd.images import form as form_lib
from kd.input_pipeline import image_rows
from kd.input_pipeline import image_tokens
from kd.models import families
from kd.models.vision import config as vision_config
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.teachers import live
from kd.train import image_features

_TOWER = vision_config.VisionConfig(
  image_size=8,
  patch_size=2,
  embed_dim=12,
  mlp_dim=16,
  num_heads=2,
  num_layers=1,
  norm_epsilon=1e-6,
  tokens_per_side=2,
)
_SIZES = dataclasses.replace(
  families.variant('nano', ''), layer_kinds=('global',), vision=_TOWER
)
_SOFT = 3
_FORM = form_lib.Form(8, _TOWER.soft_tokens, _SOFT, per_row=2)


def _slot(seed):
  pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'PNG')
  return image_tokens.Slot(file.getvalue())


def _batch(images, tokens):
  ones = np.ones_like(tokens)
  return types.Batch(
    *(tokens, ones, np.arange(tokens.shape[1], dtype=np.int32) * ones),
    *(ones, ones, ones.astype(np.float32), ones[:, 0], images),
  )


def test_models_read_kept_features_as_they_read_pixels(tmp_path):
  model = families.build(_SIZES, 'float32', 'none', '')
  rng = np.random.default_rng(0)
  everywhere = rules.replicated(mesh_lib.make({}, jax.devices()[:1]))
  params = jax.tree.map(
    lambda x: jax.device_put(
      (rng.normal(size=x.shape) / 2).astype(np.float32), everywhere
    ),
    model.abstract_params(),
  )
  tower = image_features.Encoder(
    _TOWER, np.float32, params['vision']['tower'], batch_size=2
  )
  slots = [_slot(seed) for seed in range(5)]
  encoded = []
  tokens = np.full((2, 12), 7, np.int32)
  tokens[0, 1:9] = tokens[1, 5:9] = _SOFT
  rows = [[slots[3], slots[1]], [slots[4]]]
  score = live.scorer(model, types.TapSpec((), ()))
  pixels = image_rows.read(tokens, rows, _FORM)
  expected, _ = score(params, _batch(pixels, tokens))
  for kind, most in (('bfloat16', 0.02), ('int8', 0.04)):
    store = features.Store(str(tmp_path / kind), kind, _TOWER.soft_tokens, 12)

    def counted(pixels):
      encoded.append(len(pixels))
      return tower(pixels)

    counted.config, counted.batch_size = _TOWER, 2
    for count in (3, 5):
      repeated = [*slots[:count], *slots[:count]]
      assert image_features.fill(store, repeated, counted, print) == count
    images = image_features.Reader(store)(tokens, rows, _FORM)
    assert images.pixels is None
    hidden, _ = score(params, _batch(images, tokens))
    difference = np.abs(hidden - expected).max() / np.abs(expected).max()
    assert 0 < difference < most
    assert 0 < store.relative_error < most
  assert encoded == [2, 1, 2] * 2
  without = images.replace(features=0 * images.features)
  other, _ = score(params, _batch(without, tokens))
  assert np.abs(other - expected).max() > 0.1
  changed = jax.tree.map(lambda x: x + 1e-6, params['vision']['tower'])
  assert image_features.Encoder(_TOWER, np.float32, changed, 2).digest != (
    tower.digest
  )
