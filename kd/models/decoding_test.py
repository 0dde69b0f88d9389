"""Decoding with a cache against whole forward passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.models import decoding
from kd.models import families
from kd.models import model_cases
from kd.models.gemma3 import config as gemma3_config

# One period of 2 layers and 1 more; a window much shorter than a text.
_CONFIG = gemma3_config.Gemma3Config(
  embed_dim=32,
  mlp_dim=48,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  vocab_size=64,
  layer_kinds=gemma3_config.periodic_kinds(3, 2),
  window=4,
  context=128,
  query_scale=12.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=8.0,
  norm_epsilon=1e-6,
)
_MODEL = families.build(_CONFIG, 'float32', 'none', 'student')
_LENGTH = 14


@pytest.fixture(name='params', scope='module')
def _params():
  drawn = model_cases.random_params(_MODEL.abstract_params())
  return jax.tree.map(jnp.asarray, drawn)


def test_ring_caches_are_as_long_as_the_window():
  cache = jax.eval_shape(lambda: decoding.empty(_MODEL, 3, 20))
  slots = [key.shape[1] for key, _ in cache]
  assert slots == [4, 20, 4]
  assert cache[0][0].shape == (3, 4, 2, 8)


def test_rows_of_different_length_equal_the_full_pass(params):
  """Prompts are empty, shorter than the window, as long, and longer."""
  lengths = np.array([0, 3, 4, 5, 9], np.int32)
  rows = len(lengths)
  tokens = np.random.default_rng(0).integers(1, 64, (rows, _LENGTH), np.int32)
  positions = np.tile(np.arange(_LENGTH, dtype=np.int32), (rows, 1))
  whole, _ = jax.jit(lambda *batch: _MODEL.apply({'params': params}, *batch))(
    tokens, positions, np.ones_like(tokens)
  )
  prefill = jax.jit(decoding.prefill, static_argnums=0)
  _, prompts = prefill(_MODEL, params, tokens[:, :9], lengths)
  # Earlier contents of the rows are replaced, and their order changes.
  source = np.array([3, 0, 4, 2, 1], np.int32)
  cache = decoding.empty(_MODEL, rows, _LENGTH)
  cache = jax.tree.map(lambda x: x + 7, cache)
  cache = decoding.insert(cache, prompts, np.ones(rows, bool), source)
  held = decoding.weights(_MODEL, params)
  extend = jax.jit(decoding.extend, static_argnums=0)
  for step in range(_LENGTH - 9):
    at = lengths[source] + step
    found, cache = extend(_MODEL, held, cache, tokens[source, at], at)
    np.testing.assert_allclose(found, whole[source, at], atol=1e-5)
  # Other rows do not change.
  others = np.roll(source, 1)
  other = decoding.insert(cache, prompts, np.arange(rows) == 2, others)
  for new, old in zip(
    jax.tree.leaves(other), jax.tree.leaves(cache), strict=True
  ):
    np.testing.assert_array_equal(np.delete(new, 2, 0), np.delete(old, 2, 0))
    assert not np.array_equal(new[2], old[2])
