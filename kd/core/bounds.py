"""Clamps values without turning NaN into a number.

XLA's CPU backend computes some maxima and minima with kernels that return the
other operand where one is NaN (YNNPACK, in jaxlib 0.10), so a clamp with
jnp.maximum may turn NaN into a number. A comparison with NaN is always false.
"""

import jax
import jax.numpy as jnp


def at_least(x: jax.Array, bound: jax.Array | float) -> jax.Array:
  """Returns x, or `bound` where x is below it; NaN stays NaN."""
  return jnp.where(x < bound, bound, x)


def at_most(x: jax.Array, bound: jax.Array | float) -> jax.Array:
  """Returns x, or `bound` where x is above it; NaN stays NaN."""
  return jnp.where(x > bound, bound, x)
