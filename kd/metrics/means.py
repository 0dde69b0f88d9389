"""Merges weighted means in float64.

clu's Average sums in the input's type and casts weights to bool, but target
weights are floats.
"""

from collections.abc import Mapping
import math


class Means:
  """Named weighted means that can be merged, saved and restored exactly."""

  def __init__(self, state: Mapping[str, tuple[float, float]] | None = None):
    self._sums = {
      k: (float(s), float(w)) for k, (s, w) in (state or {}).items()
    }

  def add(self, name: str, total: float, weight: float) -> None:
    """Adds a weighted sum of values and the sum of their weights."""
    old_total, old_weight = self._sums.get(name, (0.0, 0.0))
    self._sums[name] = (old_total + float(total), old_weight + float(weight))

  def compute(self) -> dict[str, float]:
    """Returns the means by name, without names of weight 0."""
    return {
      name: total / weight
      for name, (total, weight) in self._sums.items()
      if weight or math.isnan(weight)
    }

  def state(self) -> dict[str, tuple[float, float]]:
    """Returns the state to restore from; it survives JSON exactly."""
    return dict(self._sums)
