"""Estimates how long a prompt would wait for its first token."""

import collections
from collections.abc import Collection

_LATEST = 64  # Prompts that the means are taken over.
_MEASURED = 128  # Requests whose waits correct the estimate.
_QUANTILE = 0.95
# The waits of the last second are not known yet, and those that were too long
# are known to have been longer than their deadline, but not by how much.
_MARGIN = 1.3
# How many times longer than estimated waits may be before any is measured.
_CAUTION, _UNMEASURED = 1.5, 8
# Waits below this fraction of the deadline count as this fraction: how well
# they are estimated says little of those that are close to it.
_SHORT = 0.25


class Estimate:
  """Learns from the prompts of one model.

  Prompts leave the queue in bursts, at the ends of slices. The mean is thus
  taken over many of them: a running mean of a few would be that of the burst.
  """

  def __init__(self):
    self._intervals = collections.deque(maxlen=_LATEST)
    self._first_tokens = collections.deque(maxlen=_LATEST)
    self._excesses = collections.deque(
      [_CAUTION] * _UNMEASURED, maxlen=_MEASURED
    )

  def left(self, seconds: float) -> None:
    """Notes how long the queue was busy until its next prompt left it."""
    self._intervals.append(seconds)

  def first_token(self, seconds: float) -> None:
    """Notes the time from the queue to a prompt's first token."""
    self._first_tokens.append(seconds)

  def waited(self, mean_s: float, seconds: float, timeout_s: float) -> None:
    """Notes a request's wait, to its first token or its deadline.

    Args:
      mean_s: what was estimated for it.
      seconds: that it has waited.
      timeout_s: how long it might have waited.
    """
    self._excesses.append(seconds / max(mean_s, _SHORT * timeout_s))

  def mean_s(self, ahead: int) -> float:
    """Returns the mean wait for a first token behind `ahead` prompts."""
    return (ahead + 1) * _mean(self._intervals) + _mean(self._first_tokens)

  def latest_s(self, mean_s: float) -> float:
    """Returns a wait that few requests with an estimate exceed."""
    ranked = sorted(self._excesses)
    excess = ranked[int(_QUANTILE * (len(ranked) - 1))]
    return _MARGIN * excess * mean_s


def _mean(values: Collection[float]) -> float:
  return sum(values) / max(len(values), 1)
