"""Outputs of tower layers and soft tokens against layers run by hand."""

import jax
import numpy as np

from kd.core import types
from kd.models import families
from kd.models.vision import tower as tower_lib
from kd.models.vision import vision_cases as cases

_SPEC = types.TapSpec((), (), tower=(0, 2), soft_tokens=True)


def _averaged(x):
  """Averages 4 x 4 patches [B, 16, E] over squares of 2 x 2, float64."""
  x = np.asarray(x, np.float64).reshape(-1, 2, 2, 2, 2, x.shape[-1])
  return x.mean((2, 4)).reshape(-1, 4, x.shape[-1])


def test_taps_of_a_tower_are_its_layers_at_image_positions():
  model = families.build(cases.SIZES, 'float32', 'none', '')
  params = cases.params(model.abstract_params())
  rng = np.random.default_rng(1)
  pixels = rng.integers(0, 256, (2, 2, 16, 16, 3)).astype(np.uint8)
  index = np.full((2, 12), -1, np.int32)
  index[0, 1:9], index[1, 5:9] = range(8), range(4)
  ones = np.ones((2, 12), np.int32)
  batch = types.Batch(
    *(ones, ones, np.arange(12, dtype=np.int32) * ones, ones, ones),
    *(ones.astype(np.float32), ones[:, 0], types.Images(pixels, index)),
  )
  forward = jax.jit(lambda p: model.forward(p, batch, _SPEC)[1])
  taps = jax.device_get(forward(params))

  own = params['vision']['tower']
  x = tower_lib.patches(pixels.reshape(-1, 16, 16, 3), cases.TOWER)
  x = x @ own['embedding']['kernel'] + own['embedding']['bias']
  x = x + own['positions']
  layer = tower_lib.Layer(cases.TOWER, False)
  run = jax.jit(lambda p, x: layer.apply({'params': p}, x, None)[0])
  outputs = []
  for i in range(3):
    x = run(jax.tree.map(lambda p, i=i: p[i], own['layers']), x)
    outputs.append(_averaged(x).reshape(2, 8, -1))
  where = index >= 0
  for shown, number in zip(taps.tower, (0, 2), strict=True):
    assert not shown[~where].any()
    expected = np.concatenate([outputs[number][0], outputs[number][1, :4]])
    np.testing.assert_allclose(shown[where], expected, rtol=1e-4, atol=1e-5)

  normed = tower_lib.LayerNorm(1e-6).apply({'params': own['final_norm']}, x)
  x = _averaged(normed)
  projector = params['vision']['projector']
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  x = x * (1 + projector['norm']['scale']) @ projector['kernel']
  assert not taps.soft_tokens[0][~where].any()
  expected = np.concatenate([*x[:2], x[2]])
  np.testing.assert_allclose(
    taps.soft_tokens[0][where], expected, rtol=1e-4, atol=1e-5
  )
