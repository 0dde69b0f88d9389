"""Schemes against float64 numpy, and ggml's own quantization."""

import json

import gguf
from gguf import quants
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from kd.models import families
from kd.models import model_cases
from kd.quantization import schemes

_SHAPE = 3, 256, 24  # layers, inputs, outputs


def _matrix(seed=0):
  values = np.random.default_rng(seed).normal(size=_SHAPE).astype(np.float32)
  values[0, :, 0] = 0  # A block without a scale.
  values[1, 5, 3] = 40  # An outlier.
  return values


def _blocks(matrix, block):
  return matrix.reshape(_SHAPE[0], -1, block or _SHAPE[1], _SHAPE[2])


@pytest.mark.parametrize(
  ('name', 'block', 'most'),
  [
    ('int8', None, 127),
    ('int4', None, 7),
    ('int4_32', 32, 7),
    ('int4_128', 128, 7),
  ],
)
def test_symmetric_integers_round_to_the_nearest_multiple(name, block, most):
  matrix = _matrix()
  scheme = schemes.SCHEMES[name]
  codes, scales = jax.jit(scheme.quantize)(matrix)
  blocks = _blocks(matrix.astype(np.float64), block)
  expected = np.abs(blocks).max(axis=2, keepdims=True) / most
  np.testing.assert_allclose(scales, expected[:, :, 0], rtol=1e-6)
  units = blocks / np.where(expected == 0, 1, expected)
  error = np.abs(_blocks(np.asarray(codes, np.float64), block) - units)
  assert error.max() < 0.5 + 1e-4
  assert np.abs(np.asarray(codes, int)).max() == most
  values = np.asarray(scheme.dequantize(codes, scales), np.float64)
  step = np.broadcast_to(expected, blocks.shape).reshape(_SHAPE)
  assert (np.abs(values - matrix) <= step * (0.5 + 1e-4)).all()


@pytest.mark.parametrize('name', ['q8_0', 'q4_0'])
def test_ggml_blocks_equal_the_gguf_packages(name):
  matrix = _matrix()
  scheme = schemes.SCHEMES[name]
  kind = gguf.GGMLQuantizationType[name.upper()]
  # GGUF stores outputs first; blocks are runs of inputs.
  file = np.ascontiguousarray(np.swapaxes(matrix, 1, 2))
  expected = quants.dequantize(quants.quantize(file, kind), kind)
  found = np.swapaxes(
    np.asarray(
      jax.jit(schemes.fake_quantize, static_argnums=0)(scheme, matrix)
    ),
    1,
    2,
  )
  np.testing.assert_array_equal(found, expected)
  # Values on the grid do not change, byte for byte.
  again = quants.dequantize(quants.quantize(found.copy(), kind), kind)
  np.testing.assert_array_equal(again, found)


def test_fp8_rounds_as_e4m3():
  matrix = _matrix()
  codes, scales = schemes.SCHEMES['fp8'].quantize(matrix)
  expected = np.abs(matrix).max(axis=1, keepdims=True) / np.float32(448)
  units = matrix * np.where(
    expected == 0, 0, 1 / np.where(expected == 0, 1, expected)
  )
  np.testing.assert_allclose(scales, expected, rtol=1e-6)
  np.testing.assert_array_equal(
    np.asarray(codes).view(np.uint8),
    units.astype(ml_dtypes.float8_e4m3fn).view(np.uint8),
  )


def test_gradients_pass_only_inside_the_range():
  scheme = schemes.SCHEMES['q4_0']
  block = np.zeros((32, 1), np.float32)
  # The scale is 1: -8 is the extremum, 7.4 rounds to 7, 7.6 is clipped.
  block[:4, 0] = -8, 7.4, 7.6, 0.3
  slope = np.arange(1, 33, dtype=np.float32)[:, None]
  gradient = jax.grad(
    lambda x: jnp.sum(slope * schemes.fake_quantize(scheme, x))
  )(block)
  expected = slope.copy()
  expected[2] = 0
  np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize('name', ['int8', 'fp8'])
def test_inputs_are_rounded_by_their_own_range(name):
  x = _matrix().reshape(3, 8, 32, 24)
  found = schemes.RoundedInputs(name)(jnp.asarray(x), 2, None)
  vectors = x.reshape(24, -1).astype(np.float64)
  most = {'int8': 127, 'fp8': 448}[name]
  scale = np.abs(vectors).max(axis=1, keepdims=True) / most
  if name == 'int8':
    expected = np.round(vectors / scale) * scale
  else:
    expected = (vectors / scale).astype(ml_dtypes.float8_e4m3fn) * scale
  error = np.abs(np.asarray(found).reshape(24, -1) - expected)
  # A value halfway between two codes may be rounded to either.
  assert (error > 1e-5 * most * scale).mean() < 1e-3


def test_rounding_inputs_changes_the_models_identity():
  plain = families.build(model_cases.CONFIG, 'float32', 'none', 'student')
  rounded = map(schemes.RoundedInputs, schemes.INPUTS)
  models = [plain.clone(round_inputs=r) for r in rounded]
  said = [json.dumps(m.representation) for m in (plain, *models)]
  assert len(set(said)) == 3
