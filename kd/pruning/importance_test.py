"""Tests importance sums against a separate forward pass in float64 numpy."""

import jax
import numpy as np
import pytest

from kd.core import types
from kd.models import families
from kd.models import layer_stack
from kd.models import matmul
from kd.models.gemma3 import config as gemma3_config
from kd.pruning import importance
from kd.pruning import pruning_cases

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
_LENGTH = 10


def _norm(x, scale):
  return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-6) * (1 + scale)


def _rotated(x, positions, kind):
  half = x.shape[-1] // 2
  base, factor = (1e4, 1.0) if kind == _LOCAL else (1e6, 8.0)
  angles = positions[:, None] * base ** -(np.arange(half) / half) / factor
  turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
  return np.concatenate([turned.real, turned.imag], -1)


def _maps(p, y, kind, positions, segments):
  """Returns attention probabilities [N, L, L] of one row."""
  query, key = (
    _rotated(
      _norm(np.einsum('ld,dnh->lnh', y, p[name]), p[f'{name}_norm']['scale']),
      positions,
      kind,
    )
    for name in ('query', 'key')
  )
  scores = np.einsum('lnh,mnh->nlm', query, np.repeat(key, 2, axis=1))
  distance = positions[:, None] - positions
  seen = (segments[:, None] == segments) & (distance >= 0)
  if kind == _LOCAL:
    seen &= distance < 3
  probs = np.where(seen, np.exp(scores / np.sqrt(5.0)), 0)
  return probs / probs.sum(-1, keepdims=True)


def _gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _row_sums(params, layers, tokens, positions, segments):
  """Returns the sums of one row without padding, by name and layer."""
  x = params['embedding'][tokens] * np.sqrt(12)
  mean = lambda a: np.abs(a).mean(0)
  result = []
  for p, kind in zip(layers, _CONFIG.layer_kinds, strict=True):
    norm = lambda name, x: _norm(x, p[f'{name}_norm']['scale'])  # noqa: B023
    start, y = x, norm('pre_attention', x)
    sums = {'attention_width': mean(y) ** 2}
    maps = _maps(p['attention'], y, kind, positions, segments)
    value = np.einsum('ld,dgh->lgh', y, p['attention']['value'])
    heads = np.einsum('nlm,mnh->lnh', maps, np.repeat(value, 2, axis=1))
    sums['heads'] = mean(np.linalg.norm(heads, axis=-1)) ** 2
    unit = maps / np.linalg.norm(maps, axis=-1, keepdims=True)
    unit = unit.reshape(2, 2, *unit.shape[1:])
    sums['similarity'] = np.einsum('grlm,gslm->grs', unit, unit)
    y = np.einsum('lnh,nhd->ld', heads, p['attention']['out'])
    x = x + norm('post_attention', y)
    y = norm('pre_mlp', x)
    sums['mlp_width'] = mean(y) ** 2
    hidden = _gelu(y @ p['mlp']['gate']) * (y @ p['mlp']['up'])
    sums['channels'] = mean(hidden) ** 2
    x = x + norm('post_mlp', hidden @ p['mlp']['down'])
    product = (start * x).sum(-1)
    lengths = np.linalg.norm(start, axis=-1) * np.linalg.norm(x, axis=-1)
    sums['layers'] = (1 - product / lengths).sum()
    result.append(sums)
  return result


@pytest.fixture(scope='module')
def case():
  """The model, parameters without initial values, and rows."""
  model = families.build(_CONFIG, 'float32', 'block', '')
  rng = np.random.default_rng(0)
  params = pruning_cases.params(_CONFIG)
  # Two packed texts and padding; one text; and a row of padding.
  texts = ((4, 3), (10,), ())
  segments, positions = np.zeros((2, 3, _LENGTH), np.int32)
  for row, lengths in enumerate(texts):
    used = sum(lengths)
    segments[row, :used] = np.repeat(range(1, len(lengths) + 1), lengths)
    positions[row, :used] = [i for n in lengths for i in range(n)]
  tokens = rng.integers(0, 32, segments.shape).astype(np.int32)
  nothing = np.zeros_like(tokens)
  rows = (tokens, nothing, positions, segments, nothing, nothing)
  return model, params, types.Batch(*rows, np.arange(3, dtype=np.int32))


def _expected(params, batch):
  wide = jax.tree.map(np.float64, params)
  layers = [layer_stack.params_of(_CONFIG, wide, i) for i in range(3)]
  rows = []
  for tokens, positions, segments in zip(
    batch.tokens, batch.positions, batch.segment_ids, strict=True
  ):
    own = segments > 0
    if own.any():
      parts = tokens[own], positions[own], segments[own]
      rows.append(_row_sums(wide, layers, *parts))
  return {
    name: np.array([sum(row[i][name] for row in rows) for i in range(3)])
    for name in rows[0][0]
  }


@pytest.mark.parametrize('slice_size', [4, 8192])
def test_sums_equal_float64(case, slice_size, monkeypatch):
  """In rows cut into slices too, and with few attention maps at a time."""
  model, params, batch = case
  monkeypatch.setattr(matmul, '_SLICE', slice_size)
  monkeypatch.setattr(importance, '_PROBABILITIES', 12 * slice_size * 11)
  sums = importance.make(model)(params, importance.zeros(_CONFIG), batch)
  assert sums.pop('tokens') == 17
  expected = _expected(params, batch)
  assert sums.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(sums[name], value, rtol=2e-5, err_msg=name)
