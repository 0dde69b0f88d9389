"""A small model, random parameters and rows, for tests of whole models."""

import jax
import jax.numpy as jnp
import numpy as np

from kd.core import types
from kd.models.gemma3 import config as gemma3_config

# Two periods of two layers, and one more layer. Its widths are multiples of the
# 32 values of ggml's blocks.
CONFIG = gemma3_config.Gemma3Config(
  embed_dim=64,
  mlp_dim=96,
  num_heads=4,
  num_kv_heads=2,
  head_dim=16,
  vocab_size=64,
  layer_kinds=gemma3_config.periodic_kinds(5, 2),
  window=4,
  context=128,
  query_scale=16.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)


def random_params(tree: types.PyTree, seed: int = 0) -> types.PyTree:
  """Returns normal values of deviation 0.1 in the shapes of a tree.

  Unlike init_params, it compiles nothing, and norms are not the identity.
  """
  random = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: 0.1 * random.standard_normal(x.shape, np.float32), tree
  )


def batch() -> types.Batch:
  """Returns two rows of twelve ids of CONFIG's vocabulary."""
  ids = np.random.default_rng(0).integers(4, CONFIG.vocab_size, (2, 12))
  tokens = jnp.asarray(ids)
  ones = jnp.ones_like(tokens)
  return types.Batch(
    tokens=tokens,
    targets=tokens,
    positions=jnp.broadcast_to(jnp.arange(12), (2, 12)),
    segment_ids=ones,
    parts=ones,
    weights=ones.astype(jnp.float32),
    row_id=jnp.arange(2),
  )
