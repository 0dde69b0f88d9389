"""Detects weights halfway between two codes, and moves them by noise.

Weights from a quantized file lie on its grid. Half of the values of a Q5_0
block are halfway between two codes of Q4_0. The first update, however small,
moves each of them by a whole code, always in the direction of its gradient.
"""

import jax
import jax.numpy as jnp

from kd.core import types
from kd.quantization import quantized_model

Array = types.Array

# Share of ties above which to warn. Weights of high precision have none.
TIE_WARNING_SHARE = 0.05
_TOLERANCE = 1e-3


def share(
  model: quantized_model.FakeQuantizedModel, params: types.PyTree
) -> Array:
  """Returns the share of the rounded weights halfway between two codes.

  Args:
    model: the model.
    params: its parameters.
  """
  counts = []

  def count(scheme, flat):
    units = scheme.units(flat)
    distance = jnp.abs(jnp.abs(units - jnp.trunc(units)) - 0.5)
    # A mean of means, since the number of ties may exceed int32.
    ties = jnp.mean(jnp.mean(distance < _TOLERANCE, axis=-1))
    counts.append((ties, units.size))
    return flat

  model.map_rounded(params, count)
  whole = sum(size for _, size in counts)
  return sum(ties * (size / whole) for ties, size in counts)


def dithered(
  model: quantized_model.FakeQuantizedModel,
  params: types.PyTree,
  rng: Array,
  steps: float,
) -> types.PyTree:
  """Adds noise to the matrices that are rounded.

  The noise of a value is uniform within +-steps times its block's scale. Noise
  of half a step of the original grid spreads the values as evenly as they may
  have been before they were rounded to it.

  Args:
    model: the model.
    params: its parameters.
    rng: random key.
    steps: the largest noise, in units of scales.
  """
  keys = iter(jax.random.split(rng, len(model.scheme_of)))

  def add(scheme, flat):
    noise = jax.random.uniform(next(keys), flat.shape, minval=-1, maxval=1)
    return flat + (steps * noise * scheme.steps(flat)).astype(flat.dtype)

  return model.map_rounded(params, add)
