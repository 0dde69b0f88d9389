"""The forward pass against float64 numpy written from arXiv 2503.19786."""

import jax
import numpy as np
import pytest

from kd.core import types
from kd.models import families
from kd.models.gemma3 import config as gemma3_config

_LOCAL, _GLOBAL = gemma3_config.LOCAL, gemma3_config.GLOBAL
# A scan of two layers, and one layer after it.
_CONFIG = gemma3_config.Gemma3Config(
  embed_dim=12,
  mlp_dim=20,
  num_heads=4,
  num_kv_heads=2,
  head_dim=6,
  vocab_size=32,
  layer_kinds=(_LOCAL, _GLOBAL, _LOCAL),
  window=3,
  context=64,
  query_scale=5.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=8.0,
  norm_epsilon=1e-6,
)


def _norm(x, scale):
  rms = np.sqrt(np.mean(x * x, -1, keepdims=True) + _CONFIG.norm_epsilon)
  return x / rms * (1 + scale)


def _rotate(x, positions, base, factor):
  """Rotates pairs of entries (i, i + H / 2) of x [L, N, H]."""
  half = x.shape[-1] // 2
  frequencies = base ** -(np.arange(half) / half) / factor
  turn = np.exp(1j * positions[:, None] * frequencies)[:, None]
  turned = (x[..., :half] + 1j * x[..., half:]) * turn
  return np.concatenate([turned.real, turned.imag], -1)


def _attend(x, params, kind, positions, segments):
  is_local = kind == _LOCAL
  base = _CONFIG.local_rope_base if is_local else _CONFIG.global_rope_base
  factor = 1.0 if is_local else _CONFIG.global_rope_factor
  heads = {}
  for name in ('query', 'key'):
    projected = np.einsum('ld,dnh->lnh', x, params[name])
    normed = _norm(projected, params[f'{name}_norm']['scale'])
    heads[name] = _rotate(normed, positions, base, factor)
  value = np.einsum('ld,dnh->lnh', x, params['value'])
  out = np.zeros_like(x)
  for i, position in enumerate(positions):
    distance = position - positions
    seen = (segments == segments[i]) & (distance >= 0)
    if is_local:
      seen &= distance < _CONFIG.window
    for head in range(_CONFIG.num_heads):
      group = head // (_CONFIG.num_heads // _CONFIG.num_kv_heads)
      scores = heads['key'][seen, group] @ heads['query'][i, head]
      probs = np.exp(scores / np.sqrt(_CONFIG.query_scale))
      probs /= probs.sum()
      out[i] += probs @ value[seen, group] @ params['out'][head]
  return out


def _gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _forward(params, layers, tokens, positions, segments):
  """Returns the final hidden states [L, D], and the stream after each layer."""
  x = params['embedding'][tokens] * np.sqrt(_CONFIG.embed_dim)
  after = []
  for p, kind in zip(layers, _CONFIG.layer_kinds, strict=True):
    scale = {k: v['scale'] for k, v in p.items() if k.endswith('_norm')}
    y = _norm(x, scale['pre_attention_norm'])
    y = _attend(y, p['attention'], kind, positions, segments)
    x = x + _norm(y, scale['post_attention_norm'])
    y = _norm(x, scale['pre_mlp_norm'])
    y = _gelu(y @ p['mlp']['gate']) * (y @ p['mlp']['up']) @ p['mlp']['down']
    x = x + _norm(y, scale['post_mlp_norm'])
    after.append(x)
  return _norm(x, params['final_norm']['scale']), np.stack(after)


@pytest.fixture(scope='module')
def built():
  """The model, and parameters none of which is at its initial value."""
  model = families.build(_CONFIG, 'float32', 'none', '')
  shapes = model.abstract_params()
  rng = np.random.default_rng(0)
  return model, jax.tree.map(
    lambda x: (rng.normal(size=x.shape) * 0.5).astype(np.float32), shapes
  )


def test_the_forward_pass_equals_the_papers(built):
  model, params = built
  lengths = (7, 4)
  positions = np.concatenate([np.arange(n) for n in lengths])
  segments = np.repeat([1, 2], lengths)
  tokens = np.random.default_rng(1).integers(0, 32, len(positions))
  nothing = np.zeros(len(positions))
  rows = (tokens, nothing, positions, segments, nothing, nothing, [0])
  batch = types.Batch(*(np.array([x], np.int32) for x in rows))
  spec = types.TapSpec((0, 1, 2), ())
  hidden, shown = jax.jit(lambda p: model.forward(p, batch, spec))(params)

  wide = jax.tree.map(np.float64, params)
  scanned = jax.tree.map(lambda x: x[0], wide['pattern'])
  layers = [
    scanned['layer_0'],
    scanned['layer_1'],
    wide['remainder']['layer_0'],
  ]
  expected = _forward(wide, layers, tokens, positions, segments)
  np.testing.assert_allclose(shown.hidden[:, 0], expected[1], atol=2e-5)
  np.testing.assert_allclose(hidden[0], expected[0], atol=2e-5)
