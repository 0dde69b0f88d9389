"""Bounds that keep NaN, and a reciprocal root that keeps infinity visible.

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


def rsqrt(x: jax.Array) -> jax.Array:
  """Returns 1 / sqrt(x), but NaN for +inf: a sum of squares that overflowed.

  A norm that divides by it would give zeros, which are finite.
  """
  # Added to the root: the backward pass then has nothing more to save.
  lost = jnp.where(x < jnp.inf, 0.0, jnp.nan).astype(x.dtype)
  return jax.lax.rsqrt(x) + jax.lax.stop_gradient(lost)
