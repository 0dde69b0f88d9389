"""Estimates how long a prompt would wait for its first token."""

import collections
from collections.abc import Collection

_LATEST = 64  # Number of prompts that the means are taken over.
_MEASURED = 128  # Number of measured waits that correct the estimate.
_QUANTILE = 0.95
# The most recent waits are not measured yet, and waits that exceed the deadline
# are only known to be longer than it.
_MARGIN = 1.3
# Initial ratio of the wait to the estimate, and the number of times it counts.
_CAUTION, _UNMEASURED = 1.5, 8
# Estimates below this fraction of the deadline count as this fraction, because
# the error of short estimates says little about long ones.
_SHORT = 0.25


class Estimate:
  """Estimates waits from the latest prompts of one model.

  Prompts leave the queue in bursts, at the ends of slices. The mean is taken
  over many prompts, because a mean of a few would be that of one burst.
  """

  def __init__(self):
    self._intervals = collections.deque(maxlen=_LATEST)
    self._first_tokens = collections.deque(maxlen=_LATEST)
    self._excesses = collections.deque(
      [_CAUTION] * _UNMEASURED, maxlen=_MEASURED
    )

  def left(self, seconds: float) -> None:
    """Records the time that the busy queue took until a prompt left it."""
    self._intervals.append(seconds)

  def first_token(self, seconds: float) -> None:
    """Records the time from the end of the queue to the first token."""
    self._first_tokens.append(seconds)

  def waited(self, mean_s: float, seconds: float, timeout_s: float) -> None:
    """Records the wait of a request for its first token.

    Args:
      mean_s: estimated mean wait of the request.
      seconds: actual wait, at most the deadline.
      timeout_s: the deadline, in seconds from the start of the wait.
    """
    self._excesses.append(seconds / max(mean_s, _SHORT * timeout_s))

  def mean_s(self, ahead: int) -> float:
    """Returns the mean wait for a first token behind `ahead` prompts."""
    return (ahead + 1) * _mean(self._intervals) + _mean(self._first_tokens)

  def latest_s(self, mean_s: float) -> float:
    """Returns a wait that few requests with this mean estimate exceed."""
    ranked = sorted(self._excesses)
    excess = ranked[int(_QUANTILE * (len(ranked) - 1))]
    return _MARGIN * excess * mean_s


def _mean(values: Collection[float]) -> float:
  return sum(values) / max(len(values), 1)
