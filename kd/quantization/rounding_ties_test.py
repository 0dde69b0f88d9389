"""Ties of weights that the gguf package has rounded before."""

import functools

import jax
import numpy as np

from kd.models import families
from kd.models import model_cases
from kd.quantization import quantized_cases
from kd.quantization import quantized_model
from kd.quantization import rounding_ties
from kd.quantization import rules


def test_dither_moves_weights_off_the_grid_of_their_file():
  inner = families.build(model_cases.CONFIG, 'float32', 'dots', 'student')
  fields = {'weights': 'q4_0', 'tables': 'none', 'rules': {}}
  schemes = rules.scheme_of(inner.config, fields, 'student.quantize')
  model = quantized_model.FakeQuantizedModel(inner, schemes)
  params = model_cases.random_params(inner.abstract_params())
  share = jax.jit(functools.partial(rounding_ties.share, model))
  assert share(params) < 0.01
  rounded = quantized_cases.as_gguf(inner, params, 'q5_0')
  # Odd multiples of a Q5_0 step are half steps of Q4_0; few blocks differ in
  # scale.
  assert 0.4 < share(rounded) < 0.5
  assert rounding_ties.TIE_WARNING_SHARE < 0.4
  dithered = jax.jit(
    functools.partial(rounding_ties.dithered, model, steps=0.25)
  )(rounded, jax.random.key(0))
  assert share(dithered) < 0.01
  moved = 0
  for tensor in families.of(inner.config).tensors(inner.config):
    before, after = (_file(tensor, x) for x in (rounded, dithered))
    if not tensor.layer_matrix:
      np.testing.assert_array_equal(before, after)
      continue
    blocks = before.reshape(-1, 32)
    step = np.abs(blocks).max(1, keepdims=True) / 8
    noise = (after.reshape(-1, 32) - blocks) / step
    assert np.abs(noise).max() < 0.2501 and abs(noise.mean()) < 0.02
    # The deviation of uniform noise is half its range over the root of 3.
    np.testing.assert_allclose(noise.std(), 0.25 / 3**0.5, rtol=0.05)
    moved += 1
  assert moved


def _file(tensor, params):
  """Returns the tensor in the layout of files, outputs first."""
  leaf = params
  for key in tensor.path:
    leaf = leaf[key]
  at = () if tensor.group is None else (tensor.group,)
  return np.ascontiguousarray(tensor.to_file(np.asarray(leaf)[at], 'gguf'))
