"""The forward pass against float64 numpy written from arXiv 2505.09388."""

import dataclasses

import jax
import numpy as np
import pytest

from kd.core import types
from kd.models import families
from kd.models import layer_stack
from kd.models.qwen3 import config as config_lib

_CONFIG = config_lib.Qwen3Config(
  embed_dim=12,
  mlp_dim=20,
  num_heads=4,
  num_kv_heads=2,
  head_dim=6,
  vocab_size=32,
  num_layers=3,
  context=64,
  rope_base=1e6,
  norm_epsilon=1e-6,
  tied=False,
)
_LENGTHS = (7, 4)


def _norm(x, weight):
  rms = np.sqrt(np.mean(x * x, -1, keepdims=True) + _CONFIG.norm_epsilon)
  return x / rms * weight


def _rotate(x, positions):
  """Rotates pairs of entries (i, i + H / 2) of x [L, N, H]."""
  half = x.shape[-1] // 2
  frequencies = _CONFIG.rope_base ** -(np.arange(half) / half)
  turn = np.exp(1j * positions[:, None] * frequencies)[:, None]
  turned = (x[..., :half] + 1j * x[..., half:]) * turn
  return np.concatenate([turned.real, turned.imag], -1)


def _attend(x, params, positions, segments):
  heads = {}
  for name in ('query', 'key'):
    projected = np.einsum('ld,dnh->lnh', x, params[name])
    normed = _norm(projected, params[f'{name}_norm']['scale'])
    heads[name] = _rotate(normed, positions)
  value = np.einsum('ld,dnh->lnh', x, params['value'])
  out = np.zeros_like(x)
  for i, position in enumerate(positions):
    seen = (segments == segments[i]) & (positions <= position)
    for head in range(_CONFIG.num_heads):
      group = head // (_CONFIG.num_heads // _CONFIG.num_kv_heads)
      scores = heads['key'][seen, group] @ heads['query'][i, head]
      probs = np.exp(scores / np.sqrt(_CONFIG.head_dim))
      probs /= probs.sum()
      out[i] += probs @ value[seen, group] @ params['out'][head]
  return out


def _forward(params, layers, tokens, positions, segments):
  """Returns the final hidden states [L, D], and the stream after each layer."""
  x = params['embedding'][tokens]
  after = []
  for p in layers:
    y = _norm(x, p['pre_attention_norm']['scale'])
    x = x + _attend(y, p['attention'], positions, segments)
    y = _norm(x, p['pre_mlp_norm']['scale'])
    gate, up = y @ p['mlp']['gate'], y @ p['mlp']['up']
    x = x + (gate / (1 + np.exp(-gate)) * up) @ p['mlp']['down']
    after.append(x)
  return _norm(x, params['final_norm']['scale']), np.stack(after)


@pytest.fixture(scope='module')
def built():
  """The model, and parameters none of which is at its initial value."""
  model = families.build(_CONFIG, 'float32', 'none', '')
  rng = np.random.default_rng(0)
  return model, jax.tree.map(
    lambda x: (rng.normal(size=x.shape) * 0.5).astype(np.float32),
    model.abstract_params(),
  )


def _batch():
  positions = np.concatenate([np.arange(n) for n in _LENGTHS])
  segments = np.repeat([1, 2], _LENGTHS)
  tokens = np.random.default_rng(1).integers(0, 32, len(positions))
  nothing = np.zeros(len(positions))
  rows = (tokens, nothing, positions, segments, nothing, nothing, [0])
  return types.Batch(*(np.array([x], np.int32) for x in rows))


def test_the_forward_pass_equals_the_papers(built):
  model, params = built
  batch = _batch()
  spec = types.TapSpec((0, 1, 2), ())
  hidden, shown = jax.jit(lambda p: model.forward(p, batch, spec))(params)
  wide = jax.tree.map(np.float64, params)
  layers = [
    layer_stack.params_of(_CONFIG, wide, i) for i in range(_CONFIG.num_layers)
  ]
  expected = _forward(
    wide, layers, batch.tokens[0], batch.positions[0], batch.segment_ids[0]
  )
  np.testing.assert_allclose(shown.hidden[:, 0], expected[1], atol=2e-5)
  np.testing.assert_allclose(hidden[0], expected[0], atol=2e-5)


def test_untied_embeddings_have_separate_gradients(built):
  """The head's gradient does not affect the input embedding, or vice versa."""
  model, params = built
  batch = _batch()

  @jax.jit
  @jax.grad
  def gradient(params):
    hidden, _ = model.forward(params, batch, types.TapSpec((), ()))
    logits = hidden[0] @ model.unembedding(params).T
    return jax.nn.logsumexp(logits, axis=-1).sum()

  found = gradient(params)
  read = np.isin(np.arange(32), batch.tokens)
  np.testing.assert_array_equal(np.any(found['embedding'] != 0, 1), read)
  assert np.all(np.any(found['head'] != 0, 1))


def test_norm_scales_are_initialized_to_one():
  model = families.build(
    dataclasses.replace(_CONFIG, tied=True), 'float32', 'none', ''
  )
  params = model.init_params(jax.random.key(0))
  assert 'head' not in params
  scales = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if path[-1].key == 'scale'
  ]
  assert len(scales) == 5
  assert all((leaf == 1).all() for leaf in scales)
