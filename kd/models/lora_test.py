"""Adapters against dense matrices that numpy merges."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import types
from kd.models import families
from kd.models import lora
from kd.models import model_cases
from kd.models import tensors
from kd.models.qwen3 import config as qwen3_config

_NONE = types.TapSpec((), ())
_CONFIGS = {
  'gemma3': model_cases.CONFIG,
  'qwen3': qwen3_config.Qwen3Config(
    embed_dim=32,
    mlp_dim=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=64,
    context=128,
    norm_epsilon=1e-6,
    num_layers=3,
    rope_base=1e6,
    tied=False,
  ),
}


@functools.cache
def _model(
  variant, targets=tensors.LAYER_MATRICES, stabilized=False, remat='dots'
):
  inner = families.build(_CONFIGS[variant], 'float32', remat, 'student')
  return lora.LoraModel(inner, 3, 6.0, targets, stabilized)


@functools.cache
def _params(model):
  """Returns parameters whose adapters change the outputs."""
  base = model_cases.random_params(model.inner.abstract_params())
  adapters = jax.eval_shape(model.init_adapters, jax.random.key(0))
  return model.with_base(base, model_cases.random_params(adapters, seed=1))


@functools.partial(jax.jit, static_argnums=0)
def _hidden(model, params):
  return model.forward(params, model_cases.batch(), _NONE)[0]


def _merged(model, params, scale):
  """Returns dense parameters, merged by numpy in float64."""
  dense = jax.tree.map(np.asarray, model.base_params(params))
  for tensor in families.of(model.config).tensors(model.config):
    if tensor.layer_matrix not in model.targets:
      continue
    adapter = tensors.leaf(params, tensor.path)
    leaf = tensors.leaf(dense, tensor.path)
    at = () if tensor.group is None else (tensor.group,)
    a, b = (np.asarray(adapter[name], np.float64)[at] for name in 'ab')
    whole = leaf.astype(np.float64)
    whole[at] += scale * np.tensordot(a, b, 1)
    tensors.set_leaf(dense, tensor.path, whole.astype(np.float32))
  return dense


@pytest.mark.parametrize(
  ('model', 'scale'),
  [
    (_model('gemma3'), 2.0),
    (_model('gemma3', ('q_proj', 'down_proj'), True), 6 / 3**0.5),
    (_model('qwen3'), 2.0),
  ],
  ids=['all', 'two', 'qwen3'],
)
def test_outputs_equal_those_of_merged_matrices(model, scale):
  params = _params(model)
  dense = _merged(model, params, scale)
  expected, hidden = _hidden(model.inner, dense), _hidden(model, params)
  np.testing.assert_allclose(hidden, expected, atol=2e-5)
  base = _hidden(model.inner, model.base_params(params))
  assert np.abs(np.asarray(base - expected)).max() > 0.05
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
    jax.jit(model.plain_params)(params),
    dense,
  )


def test_new_adapters_change_nothing():
  model = _model('gemma3')
  base = model.base_params(_params(model))
  params = jax.jit(model.from_plain)(base, jax.random.key(3))
  np.testing.assert_array_equal(
    _hidden(model, params), _hidden(model.inner, base)
  )


def test_gradients_equal_projected_dense_ones():
  model, scale = _model('gemma3'), 2.0
  params = _params(model)
  probe = jax.random.normal(jax.random.key(5), (2, 12, model.config.embed_dim))

  loss = lambda model, params: jnp.sum(probe * _hidden(model, params))
  slope = jax.jit(jax.grad(loss, argnums=1), static_argnums=0)
  dense = slope(model.inner, _merged(model, params, scale))
  adapters = slope(model, params)
  for tensor in families.of(model.config).tensors(model.config):
    if not tensor.layer_matrix:
      continue
    at = () if tensor.group is None else (tensor.group,)
    slope = np.asarray(tensors.leaf(dense, tensor.path))[at]
    slope = slope.reshape(int(np.prod(tensor.shape[: tensor.inputs])), -1)
    a, b = (np.asarray(tensors.leaf(params, tensor.path)[k])[at] for k in 'ab')
    a, b = a.reshape(-1, model.rank), b.reshape(model.rank, -1)
    found = tensors.leaf(adapters, tensor.path)
    expected = {'a': scale * slope @ b.T, 'b': scale * a.T @ slope}
    for name, value in expected.items():
      size = np.abs(value).max()
      np.testing.assert_allclose(
        np.asarray(found[name])[at].reshape(value.shape),
        value,
        atol=1e-4 * size,
      )


@pytest.mark.parametrize('remat', ['dots', 'block'])
def test_gradients_keep_no_copy_of_the_matrices(remat):
  model = _model('gemma3', remat=remat)
  params = model.abstract_params()
  is_adapter = lambda path: path[-1].key in 'ab'
  pick = lambda which: jax.tree_util.tree_map_with_path(
    lambda path, x: x if is_adapter(path) == which else None, params
  )

  def loss(adapters, base):
    params = jax.tree.map(
      lambda x, y: y if x is None else x,
      adapters,
      base,
      is_leaf=lambda x: x is None,
    )
    return jnp.sum(model.forward(params, model_cases.batch(), _NONE)[0])

  _, residuals = jax.eval_shape(
    lambda a, b: jax.vjp(lambda a: loss(a, b), a), pick(True), pick(False)
  )
  wide = (model.config.embed_dim, model.config.mlp_dim)
  matrices = lambda tree: [
    x.shape for x in jax.tree.leaves(tree) if x.shape[-2:] in (wide, wide[::-1])
  ]
  assert len(matrices(residuals)) <= len(matrices(params))


def test_axes_match_the_parameters():
  model = _model('gemma3')
  spec = jax.sharding.PartitionSpec
  ranks = jax.tree.map(
    len, model.logical_axes(), is_leaf=lambda x: isinstance(x, spec)
  )
  assert ranks == jax.tree.map(lambda x: x.ndim, model.abstract_params())
  axes = model.logical_axes()['pattern']['layer_0']
  assert axes['mlp']['down']['a'] == spec('layer_periods', 'mlp', None)
  assert axes['attention']['out']['b'] == spec('layer_periods', None, 'embed')


def test_dropout_zeroes_inputs_and_keeps_the_mean():
  model = dataclasses.replace(_model('gemma3'), dropout=0.25)
  params = _params(_model('gemma3'))
  dropped = jax.jit(jax.vmap(model.with_dropout, (None, 0)))(
    params, jax.random.split(jax.random.key(0), 400)
  )
  for path, new in jax.tree_util.tree_leaves_with_path(dropped):
    old = tensors.leaf(params, [key.key for key in path])
    if path[-1].key != 'a':
      np.testing.assert_array_equal(new, np.broadcast_to(old, new.shape))
      continue
    factors = np.asarray(new / old)
    # An input is dropped as a whole, for every column of A.
    assert (np.ptp(factors, axis=-1) < 1e-5).all()
    assert (np.isclose(factors, 0) | np.isclose(factors, 4 / 3)).all()
    # Four standard deviations of the mean of 400 draws of an input.
    error = np.abs(factors.mean(axis=0) - 1).max()
    assert error < 5 * (1 / 3 / 400) ** 0.5
