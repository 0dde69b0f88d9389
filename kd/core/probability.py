"""Entropy, nuclei and random draws of distributions over token ids."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd.core import bounds

Array = jax.Array

# A finite stand-in for log 0: its exponential is 0 at any temperature, and
# differences and products with 0 are numbers, unlike those of -inf.
LOG_ZERO = -1e9

_SEARCH_STEPS = 30  # The bits of floats from 0 up to 2.


def entropy(log_p: Array) -> Array:
  """Computes -sum p log p in nats: [...] from log-probabilities [..., V].

  A log-probability of -inf adds nothing; one of NaN makes the result NaN.
  """
  log_p = bounds.at_least(log_p, LOG_ZERO)
  return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def nucleus_threshold(p: Array, mass: Array | float) -> Array:
  """Computes the lowest probability in the nucleus of each distribution.

  The nucleus is the smallest set of the most likely ids that hold `mass`; ids
  as likely as its least likely one belong to it too. The threshold is found by
  bisection: sorting a vocabulary is slow.

  Args:
    p: float32 [..., V], from 0 and below 2; a row need not sum to 1.
    mass: probability that the nucleus holds, above 0; broadcast against
      [..., 1].

  Returns:
    float32 [..., 1]; 0 where all ids together hold less than `mass`.
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
  """Returns which ids are in the nucleus: bool, of the shape of p.

  Args:
    p: see nucleus_threshold.
    mass: likewise.
  """
  # A device that flushes subnormal numbers to 0 compares bits correctly.
  return _bits(p) >= _bits(nucleus_threshold(p, mass))


def in_sorted_nucleus(p: Array, mass: Array | float) -> Array:
  """Returns which of some descending probabilities are in the nucleus.

  Args:
    p: float32 [..., K], from the highest to the lowest.
    mass: see nucleus_threshold.

  Returns:
    bool [..., K]; all of them if together they hold less than `mass`.
  """
  return jnp.cumsum(p, axis=-1) - p < mass


def _bits(p):
  """Returns the bits of floats, whose order is that of floats from 0."""
  return jax.lax.bitcast_convert_type(p, jnp.int32)


def draw_by_blocks(
  block_mass: Array, mass_within: Callable[[Array], Array], uniform: Array
) -> Array:
  """Draws ids with replacement: first a block of ids, then an id of the block.

  Sums over few numbers keep the precision of float32; in one running sum over
  a large vocabulary, unlikely ids would be rounded away. An id without mass is
  never drawn.

  Args:
    block_mass: float32 [T, n], the mass of each block; it need not sum to 1.
    mass_within: maps blocks, int32 [T, N], to the mass of each of their K ids,
      float32 [T, N, K].
    uniform: float32 [T, 2, N], from 0 and below 1.

  Returns:
    int32 [T, N]: block x K + place in the block; n x K or more in a row whose
    masses are all 0 or not finite.
  """
  blocks = jax.vmap(_invert)(block_mass, uniform[:, 0])
  within = mass_within(blocks)
  place = jax.vmap(jax.vmap(_invert))(within, uniform[:, 1])
  return blocks * within.shape[-1] + place


def _invert(mass, uniform):
  """Returns where the running sum of mass [n] exceeds a fraction of its total.

  Args:
    mass: float32 [n].
    uniform: the fractions, of any shape.

  Returns:
    int32 of the shape of `uniform`.
  """
  # Parallel sums are each rounded differently: they may rise where there is no
  # mass, or fall.
  sums = jax.lax.cummax(jnp.where(mass > 0, jnp.cumsum(mass), 0.0))
  # Right: a place without mass has the same sum as the place before it.
  method = 'compare_all' if uniform.size == 1 else 'scan'  # The faster one.
  wanted = uniform * sums[-1]
  return jnp.searchsorted(sums, wanted, side='right', method=method)
