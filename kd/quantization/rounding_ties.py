"""Weights that lie halfway between two codes, and noise that moves them off.

Weights that come from a file of few bits lie on its grid. Half of the values of
a Q5_0 block are halfway between two codes of Q4_0: the first update, however
small, moves each of them by a whole code, and all in the direction of their
gradient.
"""

import jax
import jax.numpy as jnp

from kd.core import types
from kd.quantization import quantized_model

Array = types.Array

# A larger share of ties is worth a warning. Weights of many bits have none.
MANY = 0.05
_TOLERANCE = 1e-3


def share(
  model: quantized_model.FakeQuantizedModel, params: types.PyTree
) -> Array:
  """Returns the share of the rounded weights that lie between two codes.

  Args:
    model: the model.
    params: its parameters.
  """
  counts = []

  def count(scheme, flat):
    units = scheme.units(flat)
    distance = jnp.abs(jnp.abs(units - jnp.trunc(units)) - 0.5)
    # A mean of means: a model's ties may be more than int32 can count.
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
  """Returns parameters with noise in the matrices that are rounded.

  The noise of a value is uniform within +-steps times its block's scale. With
  half a step of the grid that the values lie on, they are spread as evenly as
  they may have been before they were rounded to it.

  Args:
    model: the model.
    params: its parameters.
    rng: the key of the noise.
    steps: the largest noise, in scales.
  """
  keys = iter(jax.random.split(rng, len(model.scheme_of)))

  def add(scheme, flat):
    noise = jax.random.uniform(next(keys), flat.shape, minval=-1, maxval=1)
    return flat + (steps * noise * scheme.steps(flat)).astype(flat.dtype)

  return model.map_rounded(params, add)
