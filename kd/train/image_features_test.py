"""Compares a batch with stored features with the tower on its pixels."""

import jax
import numpy as np

from kd.core import types
from kd.images import features
from kd.images import form as form_lib
from kd.input_pipeline import image_rows
from kd.input_pipeline import image_tokens
from kd.models import families
from kd.models.vision import vision_cases as cases
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.teachers import live
from kd.train import image_features

_TOWER = cases.TOWER
_SIZE = _TOWER.soft_tokens, _TOWER.embed_dim
_SOFT = 3
_FORM = form_lib.Form(_TOWER.image_size, _TOWER.soft_tokens, _SOFT, per_row=2)


def _batch(images, tokens):
  ones = np.ones_like(tokens)
  return types.Batch(
    *(tokens, ones, np.arange(tokens.shape[1], dtype=np.int32) * ones),
    *(ones, ones, ones.astype(np.float32), ones[:, 0], images),
  )


def test_stored_features_give_the_outputs_of_pixels(tmp_path):
  model = families.build(cases.SIZES, 'float32', 'none', '')
  everywhere = rules.replicated(mesh_lib.make({}, jax.devices()[:1]))
  params = jax.device_put(
    cases.params(model.abstract_params(), deviation=0.5), everywhere
  )
  tower = image_features.Encoder(
    _TOWER, np.float32, params['vision']['tower'], batch_size=2
  )
  slots = [image_tokens.Slot(cases.png(seed)) for seed in range(5)]
  encoded = []
  tokens = np.full((2, 12), 7, np.int32)
  tokens[0, 1:9] = tokens[1, 5:9] = _SOFT
  rows = [[slots[3], slots[1]], [slots[4]]]
  score = live.scorer(model, types.TapSpec((), ()))
  pixels = image_rows.read(tokens, rows, _FORM)
  expected, _ = score(params, _batch(pixels, tokens))
  for kind, most in (('bfloat16', 0.02), ('int8', 0.04)):
    store = features.Store(str(tmp_path / kind), kind, *_SIZE)

    def counted(pixels):
      encoded.append(len(pixels))
      return tower(pixels)

    counted.config, counted.batch_size = _TOWER, 2
    for count in (3, 5):
      repeated = [*slots[:count], *slots[:count]]
      assert len(image_features.fill(store, repeated, counted, print)) == count
    # Two processes divide the images and read each other's files.
    shared = str(tmp_path / f'shared-{kind}')
    both = [features.Store(shared, kind, *_SIZE) for _ in range(2)]
    for number, own in enumerate(both):
      keys = image_features.fill(own, slots, tower, print, (number, 2))
      assert len(own) == (3, 2)[number]
    for own in both:
      own.refresh()
      for key in keys:
        np.testing.assert_array_equal(own.read(key), store.read(key))
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
