import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import attention_mask
from kd.models import layers
from kd.models.attention import attention
from kd.models.gemma3 import config as gemma3_config


@pytest.mark.parametrize('offset', [0.0, 1.0])
def test_rms_norm_multiplies_by_its_offset_weight_in_float32(offset):
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(3, 16)) * 20, jnp.bfloat16)
  scale = random.normal(size=16).astype(np.float32)
  found = layers.RMSNorm(1e-6, 'norm', offset).apply(
    {'params': {'scale': scale}}, x
  )
  wide = np.asarray(x, np.float64)
  exact = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
  exact *= offset + scale.astype(np.float64)
  assert found.dtype == jnp.bfloat16
  # Rounded once: never more than half of the last of 8 bits away.
  error = np.abs(np.asarray(found, np.float64) - exact)
  assert (error <= np.abs(exact) * 2.0**-8).all()


def test_rotary_positions_are_divided_by_the_factor():
  eighty, ten = np.array([[80]]), np.array([[10]])
  scaled = layers.rotary_angles(eighty, 16, 1e6, 8.0)
  exponents = np.arange(8) / 8
  np.testing.assert_allclose(scaled[0, 0], 10 / 1e6**exponents, rtol=1e-5)
  np.testing.assert_allclose(
    scaled, layers.rotary_angles(ten, 16, 1e6, 1.0), rtol=1e-6
  )
  local = layers.rotary_angles(eighty, 16, 1e4, 1.0)
  np.testing.assert_allclose(local[0, 0], 80 / 1e4**exponents, rtol=1e-5)


def test_rotation_treats_the_halves_as_complex_numbers():
  random = np.random.default_rng(0)
  x = random.normal(size=(2, 3, 4, 8)).astype(np.float32)
  angles = random.normal(size=(2, 3, 4)).astype(np.float32)
  found = np.asarray(layers.rotate(x, angles))
  rotated = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)[:, :, None]
  np.testing.assert_allclose(found[..., :4], rotated.real, atol=1e-6)
  np.testing.assert_allclose(found[..., 4:], rotated.imag, atol=1e-6)


def test_attention_uses_the_query_scale_and_no_soft_cap():
  """Scores of one head, 100 times those of the query scale, are not capped."""
  config = gemma3_config.Gemma3Config(
    embed_dim=8,
    mlp_dim=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=8,
    layer_kinds=('global',),
    window=4,
    context=8,
    query_scale=12.0,
    local_rope_base=1e4,
    global_rope_base=1e6,
    global_rope_factor=1.0,
    norm_epsilon=1e-6,
  )
  random = np.random.default_rng(0)
  module = layers.Attention(config, 1.0, attention.XLA, layers.unrounded)
  x = random.normal(size=(1, 5, 8)).astype(np.float32)
  positions = np.arange(5)[None]
  angles = layers.rotary_angles(positions, 8, 1e6, 1.0)
  mask = attention_mask.AttentionMask(
    attention_mask.Positions(positions, positions * 0 + 1), None
  )
  params = module.init(jax.random.key(0), x, angles, mask, None, None)
  params = jax.tree.map(
    lambda p: p.value, params['params'], is_leaf=lambda p: hasattr(p, 'value')
  )
  params['query_norm']['scale'] = np.full(8, 40.0, np.float32)
  found, _, _ = module.apply({'params': params}, x, angles, mask, None, None)

  def heads(name, norm):
    y = np.einsum('ld,dnh->lnh', x[0], params[name], dtype=np.float64)
    y /= np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)
    y *= 1 + params[norm]['scale']
    turn = np.exp(1j * positions[0, :, None] * 1e6 ** (-np.arange(4) / 4))
    return (y[..., :4] + 1j * y[..., 4:]) * turn[:, None]

  query, key = heads('query', 'query_norm'), heads('key', 'key_norm')
  scores = np.einsum('lnh,mgh->nlm', query, key.conj()).real * 12**-0.5
  assert np.abs(scores).max() > 50
  scores = np.where(np.tri(5, dtype=bool), scores, -np.inf)
  probs = np.exp(scores - scores.max(-1, keepdims=True))
  probs /= probs.sum(-1, keepdims=True)
  value = np.einsum('ld,dgh->lh', x[0], params['value'])
  attended = np.einsum('nlm,mh->lnh', probs, value)
  wanted = np.einsum('lnh,nhd->ld', attended, params['out'])
  np.testing.assert_allclose(found[0], wanted, atol=1e-4)
