"""Taps: what chosen layers show, for losses on features."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp

from kd.core import types


@dataclasses.dataclass(frozen=True)
class TapSpec:
  """Which layers show what; numbers count from 0.

  Attributes:
    hidden: layers whose output, the residual stream behind them, is shown.
    attention: layers whose queries, keys and values are shown.
  """

  hidden: tuple[int, ...]
  attention: tuple[int, ...]

  def check(self, num_layers: int) -> None:
    """Raises ValueError if one of the layers does not exist."""
    for layer in self.hidden + self.attention:
      if not 0 <= layer < num_layers:
        raise ValueError(f'layer {layer} of {num_layers} is to be tapped')

  def places(self, layers: range, period: int) -> 'TapSpec':
    """The places 0..period-1 that these layers have in their periods."""

    def among(chosen):
      found = {(i - layers.start) % period for i in chosen if i in layers}
      return tuple(sorted(found))

    return TapSpec(among(self.hidden), among(self.attention))


# By place, a layer's (output,); and by place, its (query, key, value).
Shown = tuple[Mapping[int, tuple[Any]], Mapping[int, tuple[Any, Any, Any]]]


def collect(
  spec: TapSpec, stacked: Shown, rest: Shown, groups: int, period: int
) -> types.Taps:
  """Stacks what the layers of spec show, in its order.

  Args:
    spec: the layers.
    stacked: by place in the period, arrays of [groups, ...].
    rest: by place among the layers after the scan, arrays.
    groups: how many periods the scan ran over.
    period: layers in each.
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
