"""Computes a digest of parameters that does not depend on the mesh."""

import jax
import jax.numpy as jnp

from kd.core import identity
from kd.core import types
from kd.teachers import host_weights

_WORDS = 2  # Number of 32-bit words per parameter.


def of(params: types.PyTree) -> str:
  """Returns a digest of names, shapes, data types and values: 16 hex digits.

  Each value is hashed together with its index, and the hashes are added as
  integers, so that the sum does not depend on the sharding.
  """
  leaves = jax.tree_util.tree_leaves_with_path(params)
  # One at a time: on CPUs, many programs with collectives at once can occupy
  # all threads while processes wait for each other.
  sums = [jax.device_get(_sum(leaf)) for _, leaf in leaves]
  named = [
    [jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype), words.tolist()]
    for (path, leaf), words in zip(leaves, sums, strict=True)
  ]
  return identity.digest(named)


@jax.jit  # One program per shape: models have few shapes.
def _sum(leaf):
  leaf = host_weights.near(leaf)
  if leaf.dtype == jnp.int4:  # No unsigned type has its width in memory.
    leaf = leaf.astype(jnp.int8)
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
  """Mixes the bits of uint32 bijectively (MurmurHash3's finalizer)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
