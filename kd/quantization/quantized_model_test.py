"""Quantized models against the formula in float64 numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import types
from kd.models import families
from kd.models import lora
from kd.models import model_cases
from kd.quantization import quantized_cases
from kd.quantization import quantized_model
from kd.quantization import rules

_NONE = types.TapSpec((), ())


@functools.cache
def _inner():
  return families.build(model_cases.CONFIG, 'float32', 'dots', 'student')


@functools.cache
def _params():
  return model_cases.random_params(_inner().abstract_params())


def _schemes(scheme, tables='none'):
  fields = {'weights': scheme, 'tables': tables, 'rules': {}}
  return rules.scheme_of(model_cases.CONFIG, fields, 'student.quantize')


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params):
  hidden, _ = model.forward(params, model_cases.batch(), _NONE)
  return hidden @ model.unembedding(params).T


@pytest.mark.parametrize('name', ['q4_0', 'q8_0'])
def test_the_forward_pass_uses_the_rounded_weights_of_the_file(name):
  model = quantized_model.FakeQuantizedModel(_inner(), _schemes(name, name))
  plain = jax.jit(model.plain_params)(_params())
  expected = quantized_cases.as_gguf(_inner(), _params(), name)
  jax.tree.map(np.testing.assert_array_equal, plain, expected)
  logits = _logits(model, _params())
  np.testing.assert_allclose(
    logits, _logits(_inner(), expected), atol=1e-5, rtol=0
  )
  rounding = np.abs(logits - _logits(_inner(), _params())).max()
  assert rounding > (0.1 if name == 'q4_0' else 0.005)


def test_gradients_are_taken_at_the_rounded_weights():
  model = quantized_model.FakeQuantizedModel(
    _inner(), _schemes('int4_32', 'int8')
  )
  probe = jax.random.normal(jax.random.key(5), (2, 12, 64))
  loss = lambda model, p: jnp.sum(probe * _logits(model, p))
  slope = jax.jit(jax.grad(loss, argnums=1), static_argnums=0)
  found = slope(model, _params())
  expected = slope(_inner(), jax.jit(model.plain_params)(_params()))
  # A symmetric scheme clips no value, so the gradient passes everywhere.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(
      x, y, atol=2e-4 * float(np.abs(y).max()), rtol=0
    ),
    found,
    expected,
  )


@pytest.mark.parametrize('name', ['int4', 'q4_0', 'fp8'])
def test_stored_models_equal_rounded_models(name):
  stored = quantized_model.StoredModel(_inner(), _schemes(name), 'float32')
  rounded = quantized_model.FakeQuantizedModel(_inner(), _schemes(name))
  params = jax.jit(stored.from_plain)(_params(), jax.random.key(0))
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(params) == shapes(stored.abstract_params())
  spec = jax.sharding.PartitionSpec
  ranks = jax.tree.map(
    len, stored.logical_axes(), is_leaf=lambda x: isinstance(x, spec)
  )
  assert ranks == jax.tree.map(lambda x: x.ndim, params)
  np.testing.assert_allclose(
    _logits(stored, params),
    _logits(rounded, _params()),
    atol=2e-5,
    rtol=0,
  )
  plain = jax.jit(stored.plain_params)(params)
  expected = jax.jit(rounded.plain_params)(_params())
  jax.tree.map(np.testing.assert_array_equal, plain, expected)


def test_adapters_have_equal_gradients_on_stored_and_rounded_weights():
  stored = quantized_model.StoredModel(_inner(), _schemes('int4_32'), 'float32')
  fields = dict(rank=2, alpha=4.0, targets=('q_proj', 'down_proj'))
  fields |= dict(rank_stabilized=False, dropout=0.0)
  few, plain = (lora.with_adapters(m, fields) for m in (stored, _inner()))

  @jax.jit
  def make(params):
    adapters = few.init_adapters(jax.random.key(1))
    adapters = [(a, b + 0.1) for a, b in adapters]
    base = stored.from_plain(params, jax.random.key(0))
    rounded = stored.plain_params(base)
    return few.with_base(base, adapters), plain.with_base(rounded, adapters)

  params, expected = make(_params())
  spec = jax.sharding.PartitionSpec
  ranks = jax.tree.map(
    len, few.logical_axes(), is_leaf=lambda x: isinstance(x, spec)
  )
  assert ranks == jax.tree.map(lambda x: x.ndim, params)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(params) == shapes(few.abstract_params())
  is_adapter = lambda path: few.is_frozen(f'{path[-1].key}') is False

  def slopes(model, params):
    split = lambda which: jax.tree_util.tree_map_with_path(
      lambda path, x: x if is_adapter(path) == which else None, params
    )
    merge = lambda x, y: y if x is None else x
    loss = lambda adapters, base: jnp.sum(
      _logits(
        model,
        jax.tree.map(merge, adapters, base, is_leaf=lambda x: x is None),
      )
      ** 2
    )
    return jax.tree.leaves(jax.jit(jax.grad(loss))(split(True), split(False)))

  for one, other in zip(
    slopes(few, params), slopes(plain, expected), strict=True
  ):
    size = float(np.abs(other).max())
    np.testing.assert_allclose(one, other, atol=1e-4 * size, rtol=0)
