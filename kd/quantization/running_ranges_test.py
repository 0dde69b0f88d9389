"""Running ranges against their formula in float64 numpy."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from kd.core import types
from kd.models import families
from kd.models import layer_measures
from kd.models import layers
from kd.models import matmul
from kd.models import model_cases
from kd.quantization import running_ranges

_NONE = types.TapSpec((), ())


def _rounded(x, limit, name):
  """Returns float64 x as a scheme with this range represents it."""
  most = {'int8': 127, 'fp8': 448}[name]
  units = np.clip(x / (limit / most), -most, most)
  if name == 'int8':
    return np.round(units) * limit / most
  return units.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * limit / most


@pytest.mark.parametrize('name', ['int8', 'fp8'])
def test_values_outside_the_range_are_clipped_without_gradient(name):
  inputs = running_ranges.RoundedInputs(name)
  x = np.linspace(-3, 3, 4 * 6 * 5).reshape(4, 6, 5).astype(np.float32)
  slope = np.arange(1, x.size + 1, dtype=np.float32).reshape(x.shape)
  product = lambda x, limit: jnp.sum(slope * inputs(x, 1, limit))
  rounded = np.asarray(inputs(x, 1, jnp.float32(2)))
  expected = _rounded(x.astype(np.float64), 2, name)
  np.testing.assert_allclose(rounded, expected, atol=1e-6)
  gradient, largest = jax.grad(product, (0, 1))(x, jnp.float32(2))
  # Half a code beyond the range still rounds to the largest code.
  most = {'int8': 127, 'fp8': 448}[name]
  inside = np.abs(x) < 2 * (1 + 0.5 / most)
  np.testing.assert_array_equal(gradient, np.where(inside, slope, 0))
  assert largest == 3
  # Nothing is rounded before the first range.
  gradient, largest = jax.grad(product, (0, 1))(x, jnp.float32(0))
  np.testing.assert_array_equal(inputs(x, 1, jnp.float32(0)), x)
  np.testing.assert_array_equal(gradient, slope)
  assert largest == 3


@functools.cache
def _model():
  plain = families.build(model_cases.CONFIG, 'float32', 'dots', 'student')
  return running_ranges.wrapped(plain, 'int8')


def _batch():
  """Returns rows whose ends are padding with the ids of other rows."""
  batch = model_cases.batch()
  return batch.replace(segment_ids=batch.segment_ids.at[:, 9:].set(0))


def _largest(params):
  """Returns the observed maxima of each layer, [S, 4], by gradient."""
  ranges, rest = running_ranges.split(params)

  def loss(ranges):
    merged = running_ranges.carried(ranges, rest)
    hidden, _ = _model().forward(merged, _batch(), _NONE)
    return jnp.sum(hidden)

  return jax.jit(jax.grad(loss))(ranges)


def _by_layer(tree):
  flat = dict(_leaves(tree))
  config = model_cases.CONFIG
  rows = []
  for layer in range(config.num_layers):
    group, position = divmod(layer, config.scan_period)
    scanned = group < config.scan_groups
    root = 'pattern' if scanned else 'remainder'
    values = [
      flat[f'{root}/layer_{position}/{module}/{layers.INPUT_RANGES}']
      for module in ('attention', 'mlp')
    ]
    rows.append(np.concatenate([v[group] if scanned else v for v in values]))
  return np.array(rows)


def _leaves(tree):
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    yield jax.tree_util.keystr(path, simple=True, separator='/'), np.asarray(x)


@functools.cache
def _measured():
  """Returns the same maxima from layer_measures, without padding."""
  kept = _batch().segment_ids > 0
  most = lambda x: jnp.max(jnp.abs(jnp.where(_like(kept, x), x, 0)))
  measures = layer_measures.Measures(
    layer=lambda x, y: {},
    attention_input=lambda x: {'0': most(x)},
    heads=lambda q, k, mask, out: {'1': most(out)},
    mlp=lambda x, hidden, weights: {'2': most(x), '3': most(hidden)},
  )
  plain = families.build(model_cases.CONFIG, 'float32', 'none', 'student')
  measure = jax.jit(
    lambda p: layer_measures.of(
      plain, p, _batch(), jnp.asarray(kept, jnp.float32), measures
    )
  )
  measured = measure(_model().plain_params(_params()))
  return np.stack([measured[str(i)] for i in range(4)], axis=1)


def _like(kept, x):
  return kept.reshape(*kept.shape, *[1] * (x.ndim - 2))


def _params():
  plain = model_cases.random_params(_model().core.abstract_params())
  plain = jax.tree.map(jnp.asarray, plain)
  return _model().from_plain(plain, jax.random.key(0))


@pytest.mark.parametrize('positions', [5, 64])
def test_the_gradient_of_ranges_is_the_largest_input(positions, monkeypatch):
  # Ranges of 0: nothing is rounded, so that an unrounded model measures them.
  expected = _measured()
  # Also where a long row's MLP is computed a slice at a time.
  monkeypatch.setattr(matmul, '_SLICE', positions)
  largest = _by_layer(_largest(_params()))
  np.testing.assert_allclose(largest, expected, rtol=1e-5)


def test_ranges_are_averages():
  seen = np.array([[3.0, 0.0], [5.0, 2.0], [0.0, 4.0], [1.0, 1.0]])
  ranges = {'a': jnp.zeros(2), 'b': None}
  for new in seen:
    largest = {'a': jnp.asarray(new, jnp.float32), 'b': None}
    ranges = running_ranges.update(ranges, largest, 0.9, jnp.bool_(True))
  expected = [
    0.9 * (0.9 * 3.0 + 0.1 * 5.0) + 0.1 * 1.0,
    0.9 * (0.9 * 2.0 + 0.1 * 4.0) + 0.1 * 1.0,
  ]
  np.testing.assert_allclose(ranges['a'], expected, rtol=1e-6)
  largest = {'a': jnp.full(2, 9.0), 'b': None}
  same = running_ranges.update(ranges, largest, 0.9, jnp.bool_(False))
  np.testing.assert_array_equal(same['a'], ranges['a'])


def test_decoding_uses_the_same_ranges():
  params = _model().with_ranges(
    _model().plain_params(_params()), lambda shape: jnp.full(shape, 0.5)
  )
  batch = model_cases.batch()
  forward = jax.jit(_model().forward, static_argnums=2)
  hidden, _ = forward(params, batch, _NONE)
  lengths = jnp.full(2, 11)
  _, cache = jax.jit(_model().prefill)(params, batch.tokens, lengths)
  held = _model().decoding_weights(params)
  last, _ = jax.jit(_model().extend)(held, cache, batch.tokens[:, 11], lengths)
  np.testing.assert_allclose(last, hidden[:, 11], atol=2e-5)
  forward = jax.jit(_model().core.forward, static_argnums=2)
  plain, _ = forward(_model().plain_params(params), batch, _NONE)
  assert np.abs(plain - hidden).max() > 0.05
