"""Tests that pruned models equal full ones with parts set to zero."""

import dataclasses

import jax
import numpy as np
import pytest

from kd.checkpoints import weights
from kd.core import types
from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from kd.models.qwen3 import config as qwen3_config
from kd.models.vision import config as vision_config
from kd.pruning import pruning_cases
from kd.pruning import selection as selection_lib
from kd.pruning import slicing

_SIZES = dict(
  embed_dim=12,
  mlp_dim=10,
  num_heads=6,
  num_kv_heads=2,
  head_dim=4,
  vocab_size=24,
  context=64,
  # With fewer channels epsilon has another effect: 1e-6 differs by 1.5e-5.
  norm_epsilon=1e-8,
)
_GEMMA3 = gemma3_config.Gemma3Config(
  **_SIZES,
  layer_kinds=gemma3_config.periodic_kinds(5, 2),
  window=3,
  query_scale=5.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=1.0,
)
_QWEN3 = qwen3_config.Qwen3Config(
  **_SIZES, num_layers=3, rope_base=1e4, tied=False
)
_TOWER = vision_config.VisionConfig(
  image_size=8,
  patch_size=4,
  embed_dim=6,
  mlp_dim=10,
  num_heads=2,
  num_layers=2,
  norm_epsilon=1e-6,
  tokens_per_side=1,
)
_WITH_TOWER = dataclasses.replace(_GEMMA3, vision=_TOWER)
# The dimensions along which a parameter is set to zero, where D is written.
_ZEROED = {'embedding': 'D', 'out': 'ND', 'down': 'FD'}


def _selection(rng, layers, width, channels, heads):
  choose = lambda n, k: np.sort(rng.permutation(n)[:k])
  return selection_lib.Selection(
    layers=layers,
    channels=np.stack([choose(10, channels) for _ in layers]),
    heads=np.stack(
      [np.r_[choose(3, heads // 2), 3 + choose(3, heads // 2)] for _ in layers]
    ),
    width=choose(12, width),
  )


def _masked(config, params, selection):
  """Returns parameters with all removed parts set to zero."""
  result = jax.tree.map(np.array, params)
  for t in families.of(config).tensors(config):
    letters = 'D' if t.dims == 'ED' else _ZEROED.get(t.path[-1], '')
    leaf = result
    for key in t.path:
      leaf = leaf[key]
    array = leaf if t.group is None else leaf[t.group]
    for letter in letters:
      kept = {
        'D': lambda _: selection.width,
        'F': lambda i: selection.channels[i],
        'N': lambda i: selection.heads[i],
      }[letter](t.layer)
      axis = t.dims.index(letter)
      others = np.setdiff1d(np.arange(array.shape[axis]), kept)
      array[(slice(None),) * axis + (others,)] = 0
  return result


def _logits(config, params):
  model = families.build(config, 'float32', 'none', '')
  rng = np.random.default_rng(3)
  tokens = rng.integers(0, 24, (2, 9)).astype(np.int32)
  positions = np.broadcast_to(np.arange(9, dtype=np.int32), tokens.shape)
  ones = np.ones_like(tokens)
  images = None
  if config.vision:
    index = np.full_like(tokens, -1)
    index[0, 2] = index[1, 5] = 0
    shape = 2, 1, *[config.vision.image_size] * 2, 3
    images = types.Images(rng.integers(0, 256, shape).astype(np.uint8), index)
  batch = types.Batch(
    tokens, tokens, positions, ones, ones, ones, ones[:, 0], images
  )

  def run(params):
    hidden, _ = model.forward(params, batch, types.TapSpec((), ()))
    return hidden @ model.unembedding(params).T

  return np.asarray(jax.jit(run)(params))


@pytest.mark.parametrize(
  ('config', 'layers', 'sizes'),
  [
    (_WITH_TOWER, (0, 1, 2, 3, 4), (8, 10, 6)),
    (_GEMMA3, (0, 1, 4), (8, 7, 2)),
    (_QWEN3, (0, 2), (8, 7, 4)),
  ],
  ids=['width', 'all', 'qwen3'],
)
def test_pruning_equals_masking(config, layers, sizes):
  """To 1e-5 in float32; layers are left out of both."""
  rng = np.random.default_rng(0)
  params = pruning_cases.params(config)
  selection = _selection(rng, layers, *sizes)
  kept = config.keep_layers(layers)
  target = kept.with_widths(sizes[0], *sizes[1:])
  pruned = slicing.prune(params, config, target, selection)
  expected = families.build(target, 'float32', 'none', '').abstract_params()
  assert jax.tree.map(np.shape, pruned) == jax.tree.map(np.shape, expected)
  masked = _masked(kept, weights.layers_from(params, config, layers), selection)
  wanted = _logits(kept, masked)
  found = _logits(target, pruned)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * wanted.std())
