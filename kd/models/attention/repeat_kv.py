"""Shards heads of grouped-query attention over devices."""

import math

import jax.numpy as jnp

from kd.core import types
from kd.partitioning import rules

Array = types.Array


def for_each_part(key: Array, value: Array, count: int) -> tuple[Array, Array]:
  """Repeats keys and values, so that each device has those of its query heads.

  Nothing is repeated if the number of devices divides G.

  Args:
    key: [B, L, G, H].
    value: [B, L, G, H].
    count: N.

  Returns:
    Keys and values [B, L, G', H], where G' is a multiple of the number of
    devices and divides N, itself a multiple of G and of that number.
  """
  shards = rules.shards('heads', count)
  copies = shards // math.gcd(shards, key.shape[2])
  return tuple(jnp.repeat(x, copies, axis=2) for x in (key, value))
