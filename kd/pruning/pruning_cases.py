"""Shared helpers of the pruning tests."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from kd.core import types
from kd.models import families
from kd.models import family
from kd.models.gemma3 import config as gemma3_config
from kd.partitioning import rules
from kd.pruning import calibration
from kd.pruning import selection
from kd.pruning import sizes

LENGTH, BATCH = 8, 4
CONFIG = gemma3_config.Gemma3Config(
  embed_dim=8,
  mlp_dim=12,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  vocab_size=32,
  layer_kinds=gemma3_config.periodic_kinds(2, 2),
  window=3,
  context=64,
  query_scale=4.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)


def request(**changes: Any) -> sizes.Request:
  """Returns a request that keeps everything except for `changes`."""
  values = {
    **dict.fromkeys(sizes.SIZES, 0),
    'layer_pattern': sizes.PERIODIC,
    'head_score': selection.BOTH,
    'scores': '',
  }
  return sizes.Request(**values | changes)


def params(config: family.Config) -> types.PyTree:
  """Returns random parameters, none of which has its initial value."""
  rng = np.random.default_rng(0)
  shapes = families.build(config, 'float32', 'none', '').abstract_params()
  return jax.tree.map(
    lambda x: (rng.normal(size=x.shape) * 0.5).astype(np.float32), shapes
  )


def read(number: int, rows: Iterable[int]) -> types.Batch:
  """Returns random rows of a batch; each depends only on its number."""
  rows = np.array(list(rows), np.int32)
  tokens = [
    np.random.default_rng(number * BATCH + i).integers(0, 32, LENGTH)
    for i in rows
  ]
  tokens = np.array(tokens, np.int32)
  positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape)
  ones = np.ones_like(tokens)
  return types.Batch(tokens, tokens, positions, ones, ones, ones, rows)


def job(mesh: jax.sharding.Mesh, folder: str) -> calibration.Job:
  """Returns a calibration of CONFIG on three batches and one more row."""
  model = families.build(CONFIG, 'float32', 'none', '')
  shardings = rules.param_shardings(
    mesh, model.logical_axes(), model.abstract_params(), ''
  )
  return calibration.Job(
    model=model,
    params=jax.device_put(params(CONFIG), shardings),
    mesh=mesh,
    read=read,
    rows=3 * BATCH + 1,
    batch_size=BATCH,
    length=LENGTH,
    identity='a',
    folder=folder,
    say=lambda line: None,
  )
