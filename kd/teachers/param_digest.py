"""A digest of parameters that is the same on any mesh."""

import jax
import jax.numpy as jnp

from kd.core import identity
from kd.core import types

_WORDS = 2  # 32 bits each, of every parameter


def of(params: types.PyTree) -> str:
  """Names, shapes, types and every bit of the parameters: 16 hex digits.

  Each number is mixed with its place and these are added up as integers, whose
  sum does not depend on how the devices share the work.
  """
  leaves = jax.tree_util.tree_leaves_with_path(params)
  sums = jax.device_get([_sum(leaf) for _, leaf in leaves])
  named = [
    [jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype), words.tolist()]
    for (path, leaf), words in zip(leaves, sums, strict=True)
  ]
  return identity.digest(named)


@jax.jit  # One program for all leaves of a shape: models have few shapes.
def _sum(leaf):
  width = leaf.dtype.itemsize * 8
  bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f'uint{width}'))
  bits = bits.astype(jnp.uint32)
  place = jnp.zeros(leaf.shape, jnp.uint32)
  for axis, size in enumerate(leaf.shape):
    index = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    place = place * jnp.uint32(size) + index
  words = [
    jnp.sum(_mix(bits ^ _mix(place + jnp.uint32(0x9E3779B9 * (n + 1) % 2**32))))
    for n in range(_WORDS)
  ]
  return jnp.stack(words)


def _mix(x):
  """A bijection of uint32 that spreads every bit (MurmurHash3's finaliser)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
