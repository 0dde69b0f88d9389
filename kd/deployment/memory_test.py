"""Compares the memory of a server with formulas and another library."""

import jax
import psutil

from kd.deployment import memory
from kd.models import families


def test_required_memory_is_weights_plus_kv_cache():
  config = families.variant('270m', 'variant')
  need = memory.needed(config, 'bfloat16', 32, 2048)
  assert need.params == 4 * config.parameter_count
  # Sliding layers keep only their window.
  slots = sum(min(2048, window or 2048) for window in config.windows)
  size = config.num_kv_heads * config.head_dim
  assert need.cache == 32 * slots * 2 * size * 2
  assert need.total == need.params + need.decoding + need.cache


def test_free_memory_is_within_the_systems():
  there = memory.free(jax.devices('cpu'))
  assert 0 < there <= 1.2 * psutil.virtual_memory().available
