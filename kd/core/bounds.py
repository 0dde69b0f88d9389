"""Clamps values without turning NaN into a number.

XLA's CPU backend hands some maxima and minima to kernels that return the other
operand where one is NaN (YNNPACK, in jaxlib 0.10): a clamp that is written with
jnp.maximum turns NaN into a number there. No comparison with NaN is true.
"""

import jax
import jax.numpy as jnp


def at_least(x: jax.Array, bound: jax.Array | float) -> jax.Array:
  """Returns x, or `bound` where x is below it; NaN stays NaN."""
  return jnp.where(x < bound, bound, x)


def at_most(x: jax.Array, bound: jax.Array | float) -> jax.Array:
  """Returns x, or `bound` where x is above it; NaN stays NaN."""
  return jnp.where(x > bound, bound, x)
