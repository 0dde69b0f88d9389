import dataclasses

import jax
import numpy as np
import pytest

from kd.core import attention_mask
from kd.core import types
from kd.models import families
from kd.models import layer_stack
from kd.models import layers
from kd.models import transformer
from kd.models.attention import attention
from kd.models.gemma3 import config as gemma3_config
from kd.models.gemma3 import layer

# Two periods of four layers, and three more layers.
_KINDS = gemma3_config.periodic_kinds(11, 4)
_CONFIG = gemma3_config.Gemma3Config(
  embed_dim=32,
  mlp_dim=48,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  vocab_size=64,
  layer_kinds=_KINDS,
  window=4,
  context=128,
  query_scale=12.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=8.0,
  norm_epsilon=1e-6,
)
_EMPTY = types.TapSpec((), ())


def _model(remat='none'):
  return families.build(_CONFIG, 'float32', remat, 'student')


def _random_params(model):
  # Of the same scale as init_params, which takes seconds to compile.
  normal = np.random.default_rng(0).normal
  draw = lambda x: (0.15 * normal(size=x.shape)).astype(np.float32)
  return jax.tree.map(draw, model.abstract_params())


@pytest.fixture(scope='module')
def params():
  return _random_params(_model())


def _batch():
  """Rows [2, 11] of two segments each."""
  random = np.random.default_rng(0)
  positions = np.tile(np.r_[:6, :5].astype(np.int32), (2, 1))
  ids = np.tile(np.repeat([1, 2], [6, 5]).astype(np.int32), (2, 1))
  tokens = random.integers(1, 64, (2, 11), np.int32)
  return types.Batch(
    tokens=tokens,
    targets=tokens,
    positions=positions,
    segment_ids=ids,
    parts=np.zeros_like(ids),
    weights=np.ones(ids.shape, np.float32),
    row_id=np.arange(2, dtype=np.int32),
  )


def _layer_params(params, i):
  if i < 8:
    stacked = params['pattern'][f'layer_{i % 4}']
    return jax.tree.map(lambda x: x[i // 4], stacked)
  return params['remainder'][f'layer_{i - 8}']


def _single_layer(kind, batch):
  """Returns a layer as a function of its parameters and its input."""
  c, is_local = _CONFIG, kind == gemma3_config.LOCAL
  angles = layers.rotary_angles(
    batch.positions,
    c.head_dim,
    c.local_rope_base if is_local else c.global_rope_base,
    1.0 if is_local else c.global_rope_factor,
  )
  places = attention_mask.Positions(batch.positions, batch.segment_ids)
  mask = attention_mask.AttentionMask(places, c.window if is_local else None)
  module = layer.Layer(c, True, attention.XLA, layers.unrounded)

  @jax.jit
  def run(params, x):
    y, _, heads = module.apply({'params': params}, x, angles, mask, None, None)
    return y, heads

  return run


@pytest.mark.parametrize('weighted', [False, True])
def test_taps_equal_the_outputs_of_single_layers(params, weighted):
  """All layers, out of order, equal single layers, times their weights."""
  weights = None
  if weighted:
    weights = np.random.default_rng(1).choice([0.0, 1.0, 1.5], (11, 2))
    weights = weights.astype(np.float32)
  batch, c = _batch(), _CONFIG
  order = (10, 0, 1, 5, 9, 2, 7, 6, 8, 3, 4)
  spec = types.TapSpec(hidden=order, attention=order[::-1])
  run = jax.jit(lambda p: _model().forward(p, batch, spec, weights))
  final, shown = run(params)
  assert shown.hidden.shape == (11, 2, 11, 32)
  assert shown.query.shape == (11, 2, 11, 4, 8)
  assert shown.key.shape == shown.value.shape == (11, 2, 11, 2, 8)
  single = {kind: _single_layer(kind, batch) for kind in set(_KINDS)}
  x = params['embedding'][batch.tokens] * np.float32(32) ** 0.5
  for i, kind in enumerate(_KINDS):
    y, heads = single[kind](_layer_params(params, i), x)
    x = y if weights is None else x + weights[i][:, None, None] * (y - x)
    found = shown.hidden[order.index(i)]
    np.testing.assert_allclose(found, x, atol=1e-5)
    x = found  # So that rounding does not add up.
    taken = (shown.query, shown.key, shown.value)
    for found, wanted in zip(taken, heads, strict=True):
      np.testing.assert_allclose(
        found[order[::-1].index(i)], wanted, rtol=1e-5, atol=2e-5
      )
  norm = layers.RMSNorm(c.norm_epsilon, 'norm', 1.0)
  normed = norm.apply({'params': params['final_norm']}, shown.hidden[0])
  np.testing.assert_allclose(normed, final, atol=1e-6)


def test_rows_skip_layers_in_proportion_to_depth():
  weights = layer_stack.dropout_weights(0.5, 4, 20000, jax.random.key(0))
  for layer_weights, rate in zip(weights, (0.125, 0.25, 0.375, 0.5)):
    values, counts = np.unique(layer_weights, return_counts=True)
    np.testing.assert_allclose(values, [0.0, 1 / (1 - rate)], rtol=1e-6)
    np.testing.assert_allclose(counts[0] / 20000, rate, atol=0.01)
  together = np.mean((weights[2] == 0) & (weights[3] == 0))
  np.testing.assert_allclose(together, 0.375 * 0.5, atol=0.01)


def test_tapped_arrays_are_the_inputs_of_attention(params):
  """The layer's output is the formula of attention over the tapped arrays."""
  batch = _batch()
  module = layers.Attention(_CONFIG, 1.0, attention.XLA, layers.unrounded)
  of_layer = _layer_params(params, 2)['attention']
  x = np.random.default_rng(0).normal(size=(2, 11, 32)).astype(np.float32)
  angles = layers.rotary_angles(batch.positions, 8, 1e6, 8.0)
  places = attention_mask.Positions(batch.positions, batch.segment_ids)
  out, _, (query, key, value) = module.apply(
    {'params': of_layer},
    x,
    angles,
    attention_mask.AttentionMask(places, None),
    None,
    None,
  )
  seen = np.asarray(attention_mask.visible(places, places, None))
  key, value = (np.repeat(y, 2, axis=2) for y in (key, value))
  scores = np.einsum('blnh,bmnh->bnlm', query, key) * 12.0**-0.5
  probs = np.where(seen[:, None], np.exp(scores), 0)
  probs /= probs.sum(-1, keepdims=True)
  wanted = np.einsum('bnlm,bmnh,nhd->bld', probs, value, of_layer['out'])
  np.testing.assert_allclose(out, wanted, atol=1e-5)


def test_remat_changes_no_gradient():
  """Neither that of the final hidden states nor those of taps."""
  batch = _batch()
  spec = types.TapSpec(hidden=(1, 4), attention=(2, 3))
  kinds = gemma3_config.periodic_kinds(5, 2)
  config = dataclasses.replace(_CONFIG, layer_kinds=kinds)
  build = lambda remat: families.build(config, 'float32', remat, 'student')
  params = _random_params(build('none'))

  def gradient(remat):
    def loss(params):
      hidden, shown = build(remat).forward(params, batch, spec)
      return sum((x**2).mean() for x in jax.tree.leaves((hidden, shown)))

    return jax.jit(jax.grad(loss))(params)

  plain = gradient('none')
  for remat in ('block', 'dots'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
      gradient(remat),
      plain,
    )


def _program(spec, remat='none'):
  """The forward program as text."""
  params = _model().abstract_params()
  batch = _batch()

  def run(params):
    if spec is None:
      return _model(remat).apply(
        {'params': params}, batch.tokens, batch.positions, batch.segment_ids
      )[0]
    return _model(remat).forward(params, batch, spec)[0:2]

  return str(jax.jit(run).trace(params).jaxpr)


@pytest.mark.parametrize('remat', list(transformer.REMAT_POLICIES))
def test_empty_taps_do_not_change_the_program(remat):
  assert _program(_EMPTY, remat) == _program(None, remat)


def test_taps_are_placed_in_the_period_or_after_the_scan():
  spec = types.TapSpec(hidden=(9, 1, 5, 2), attention=(8,))
  assert spec.places(range(8), 4) == types.TapSpec((1, 2), ())
  assert spec.places(range(8, 11), 3) == types.TapSpec((1,), (0,))


def test_only_taps_at_the_same_place_are_stacked():
  plain = _program(_EMPTY).count('f32[2,2,11,32]')
  assert plain == 0
  # The scan's output, in its signature and where it is used.
  once = _program(types.TapSpec((1,), ())).count('f32[2,2,11,32]')
  twice = _program(types.TapSpec((1, 5), ())).count('f32[2,2,11,32]')
  both = _program(types.TapSpec((1, 2), ())).count('f32[2,2,11,32]')
  # Taps' own array of two layers has the same shape.
  assert (once, twice, both) == (1, 2, 3)


@pytest.mark.parametrize(
  'spec', [types.TapSpec((11,), ()), types.TapSpec((), (-1,))]
)
def test_missing_layers_are_refused(spec, params):
  with pytest.raises(ValueError, match='no layer (11|-1): the model has 11'):
    _model().forward(params, _batch(), spec)
