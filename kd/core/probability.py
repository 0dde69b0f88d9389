"""Entropy, nuclei and sampling of distributions over token ids."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd.core import bounds

Array = jax.Array

# A finite stand-in for log 0. Its exponential is 0 at any temperature, but
# unlike with -inf, differences and products with 0 are not NaN.
LOG_ZERO = -1e9

_SEARCH_STEPS = 30  # Number of bits of floats in [0, 2).


def entropy(log_p: Array) -> Array:
  """Computes -sum p log p in nats: [...] from log-probabilities [..., V].

  A log-probability of -inf adds 0; NaN makes the result NaN.
  """
  log_p = bounds.at_least(log_p, LOG_ZERO)
  return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def nucleus_threshold(p: Array, mass: Array | float) -> Array:
  """Computes the lowest probability in the nucleus of each distribution.

  The nucleus is the smallest set of the most likely ids whose probability is at
  least `mass`, plus ids that tie with its least likely one. The threshold is
  found by bisection, since sorting a vocabulary is slow.

  Args:
    p: float32 [..., V] in [0, 2); a distribution need not sum to 1.
    mass: probability of the nucleus, above 0; broadcast against [..., 1].

  Returns:
    float32 [..., 1]; 0 where the sum over all ids is below `mass`.
  """
  bits = _bits(p)

  def set_bit(i, threshold):
    higher = threshold | (1 << (_SEARCH_STEPS - 1 - i))
    inside = jnp.where(bits >= higher, p, 0.0)
    is_enough = jnp.sum(inside, axis=-1, keepdims=True) >= mass
    return jnp.where(is_enough, higher, threshold)

  zero = jnp.zeros((*p.shape[:-1], 1), jnp.int32)
  threshold = jax.lax.fori_loop(0, _SEARCH_STEPS, set_bit, zero)
  return jax.lax.bitcast_convert_type(threshold, jnp.float32)


def in_nucleus(p: Array, mass: Array | float) -> Array:
  """Returns whether each id is in the nucleus: bool [..., V].

  Args:
    p: see nucleus_threshold.
    mass: likewise.
  """
  # Comparing bits is correct even if the device flushes subnormals to 0.
  return _bits(p) >= _bits(nucleus_threshold(p, mass))


def in_sorted_nucleus(p: Array, mass: Array | float) -> Array:
  """Returns whether each of K sorted probabilities is in the nucleus.

  Args:
    p: float32 [..., K], in descending order.
    mass: see nucleus_threshold.

  Returns:
    bool [..., K]; all True if their sum is below `mass`.
  """
  return jnp.cumsum(p, axis=-1) - p < mass


def _bits(p):
  """Returns the bits of non-negative floats, which sort like the floats."""
  return jax.lax.bitcast_convert_type(p, jnp.int32)


def draw_by_blocks(
  block_mass: Array, mass_within: Callable[[Array], Array], uniform: Array
) -> Array:
  """Draws ids with replacement: first a block of ids, then an id of the block.

  One cumulative sum over a large vocabulary would round unlikely ids away in
  float32, but short sums do not. An id without mass is never drawn.

  Args:
    block_mass: float32 [T, n], the mass of each block; it need not sum to 1.
    mass_within: function of blocks, int32 [T, N], that returns the mass of each
      of their K ids, float32 [T, N, K].
    uniform: float32 [T, 2, N] in [0, 1).

  Returns:
    int32 [T, N]: block x K + index in the block; n x K or more in a row whose
    masses are all 0 or not finite.
  """
  blocks = jax.vmap(_invert)(block_mass, uniform[:, 0])
  within = mass_within(blocks)
  place = jax.vmap(jax.vmap(_invert))(within, uniform[:, 1])
  return blocks * within.shape[-1] + place


def _invert(mass, uniform):
  """Returns where the cumulative sum of `mass` exceeds a fraction of its total.

  Args:
    mass: float32 [n].
    uniform: fractions of any shape.

  Returns:
    int32 with the shape of `uniform`.
  """
  # The elements of a parallel sum are rounded differently, so they may rise
  # where the mass is 0, or fall.
  sums = jax.lax.cummax(jnp.where(mass > 0, jnp.cumsum(mass), 0.0))
  # Right: an index without mass has the same sum as the index before it.
  method = 'compare_all' if uniform.size == 1 else 'scan'  # The faster one.
  wanted = uniform * sums[-1]
  return jnp.searchsorted(sums, wanted, side='right', method=method)
