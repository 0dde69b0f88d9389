"""Collects outputs of chosen layers, for losses on features."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from kd.core import types

# (output,) of layers by number in the period, and likewise (query, key, value).
Shown = tuple[Mapping[int, tuple[Any]], Mapping[int, tuple[Any, Any, Any]]]


def collect(
  spec: types.TapSpec, stacked: Shown, rest: Shown, groups: int, period: int
) -> types.Taps:
  """Stacks the outputs of the layers of `spec`, in its order.

  Args:
    spec: the layers.
    stacked: arrays [groups, ...] by number in the period.
    rest: arrays by number among the layers after the scan.
    groups: number of periods that the scan ran over.
    period: number of layers in a period.
  """

  def one(places, others, layer):
    if layer >= groups * period:
      return others[layer - groups * period]
    return tuple(x[layer // period] for x in places[layer % period])

  def stack(layers, places, others, count):
    if not layers:
      return (None,) * count
    shown = [one(places, others, layer) for layer in layers]
    return tuple(jnp.stack(arrays) for arrays in zip(*shown, strict=True))

  (hidden,) = stack(spec.hidden, stacked[0], rest[0], 1)
  query, key, value = stack(spec.attention, stacked[1], rest[1], 3)
  return types.Taps(hidden, query, key, value)
