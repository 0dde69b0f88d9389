"""Splits heads of grouped-query attention over devices."""

import math

import jax.numpy as jnp

from kd.core import types
from kd.partitioning import rules

Array = types.Array


def for_each_part(key: Array, value: Array, count: int) -> tuple[Array, Array]:
  """Repeats keys and values, so that each device's query heads have their own.

  Nothing is repeated if the devices divide the G heads.

  Args:
    key: [B, L, G, H].
    value: [B, L, G, H].
    count: N.

  Returns:
    Both, [B, L, G', H], where the devices divide G'. It divides N, which is a
    multiple of G and of the devices.
  """
  shards = rules.shards('heads', count)
  copies = shards // math.gcd(shards, key.shape[2])
  return tuple(jnp.repeat(x, copies, axis=2) for x in (key, value))
