"""Ends training once a held-out metric no longer improves."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from kd.train import best as best_lib


@dataclasses.dataclass(frozen=True)
class End:
  """The end of training.

  Attributes:
    step: number of updates applied or skipped.
    reason: reason for an end before the last step, else ''.
  """

  step: int
  reason: str


class EarlyStop:
  """Counts evaluations without improvement; saved in checkpoints."""

  def __init__(
    self,
    watched: best_lib.Best,
    patience: int,
    min_delta: float,
    state: Mapping[str, Any],
  ):
    """Initializes the count from a saved state.

    Args:
      watched: the metric and its direction.
      patience: number of consecutive evaluations without improvement that end
        the run; 0 to never end it.
      min_delta: minimum improvement, exclusive.
      state: result of `state` in an earlier run; {} for the first.
    """
    self._watched = watched
    self._patience, self._min_delta = patience, min_delta
    self._best = state['best'] if state else None
    self._best_step = state['best_step'] if state else 0
    self._count = state['count'] if state else 0

  def state(self) -> dict[str, Any]:
    """Returns the state as JSON values that round-trip exactly."""
    return {
      'best': self._best,
      'best_step': self._best_step,
      'count': self._count,
    }

  def add(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds an evaluation; a nonfinite metric counts as no improvement."""
    quality = self._watched.quality(metrics)
    improves = quality is not None and (
      self._best is None or quality < self._best - self._min_delta
    )
    if improves:
      self._best, self._best_step, self._count = quality, step, 0
    else:
      self._count += 1

  @property
  def reason(self) -> str:
    """The reason to end training now; '' if there is none."""
    if not self._patience or self._count < self._patience:
      return ''
    metric = self._watched.metric
    text = f'{metric} has not improved'
    if self._min_delta:
      text += f' by more than {self._min_delta:g}'
    text += f' in {self._count} evaluations'
    if self._best is None:
      return f'{text}: it was never finite'
    value = -self._best if self._watched.highest else self._best
    return f'{text}: its best value was {value:.6g} at step {self._best_step}'
