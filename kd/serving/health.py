"""Checks the health of a version over a window of its requests."""

import collections
from collections.abc import Callable
import dataclasses
import time

_CLIENTS_FAULT = range(400, 500)


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits above which a version is taken out of service.

  Attributes:
    first_token_s: maximum 95th percentile of the time from the queue to the
      first token, in seconds.
    error_rate: maximum fraction of requests that fail or time out, from 0 to 1.
    window_s: length of the window in seconds.
    min_requests: minimum number of requests in the window for a judgment.
  """

  first_token_s: float
  error_rate: float
  window_s: float
  min_requests: int


class Health:
  """The latest requests of a version."""

  def __init__(
    self, limits: Limits, clock: Callable[[], float] = time.monotonic
  ):
    self._limits, self._clock = limits, clock
    self.clear()

  def clear(self) -> None:
    """Drops all requests."""
    self._events: collections.deque[tuple[float, bool, float | None]] = (
      collections.deque()
    )
    self._fault = ''

  def note(self, code: int, first_s: float | None, fault: str = '') -> None:
    """Records a request; see Router.note."""
    if code in _CLIENTS_FAULT:
      return
    self._fault = self._fault or fault
    self._events.append((self._clock(), code != 200, first_s))

  def fault(self) -> str:
    """Returns why the version is unhealthy; '' if it is healthy."""
    if self._fault:
      return self._fault
    limits, since = self._limits, self._clock() - self._limits.window_s
    while self._events and self._events[0][0] < since:
      self._events.popleft()
    events = list(self._events)
    if len(events) < limits.min_requests:
      return ''
    failed = sum(has_failed for _, has_failed, _ in events)
    # A single failure may have any cause.
    if failed > max(1, limits.error_rate * len(events)):
      return f'{failed} of {len(events)} requests failed or came too late'
    times = sorted(first for _, _, first in events if first is not None)
    p95 = times[int(0.95 * (len(times) - 1))] if times else 0.0
    if p95 > limits.first_token_s:
      return (
        f'the 95th percentile of the time to the first token, without the '
        f'queue, is {p95:.3f} s, and the limit {limits.first_token_s:g} s'
      )
    return ''
