"""The keys and values that decoding keeps."""

from typing import Any

from flax import struct
import jax.numpy as jnp

from kd.core import types
from kd.models import gemma3_config

Array = types.Array


@struct.dataclass
class Cache:
  """Keys and values of the positions seen so far.

  Attributes:
    pattern: for each layer of the period a (key, value) pair of
      [S // period, B, M, G, H].
    remainder: (key, value) of [B, M, G, H] for each layer after the scan.
    positions: int32 [B, M], the position in each slot.
    segment_ids: int32 [B, M], 0 in empty slots.
  """

  pattern: tuple[Any, ...]
  remainder: tuple[Any, ...]
  positions: Array
  segment_ids: Array


def empty(
  config: gemma3_config.Gemma3Config, batch: int, slots: int, dtype: jnp.dtype
) -> Cache:
  """A cache with room for `slots` positions in each of `batch` rows."""
  shape = (batch, slots, config.num_kv_heads, config.head_dim)
  stacked = (config.scan_groups,) + shape
  left = config.num_layers % config.scan_period
  pair = lambda s: (jnp.zeros(s, dtype), jnp.zeros(s, dtype))
  return Cache(
    pattern=tuple(pair(stacked) for _ in range(config.scan_period)),
    remainder=tuple(pair(shape) for _ in range(left)),
    positions=jnp.zeros((batch, slots), jnp.int32),
    segment_ids=jnp.zeros((batch, slots), jnp.int32),
  )
