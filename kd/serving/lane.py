"""Keeps the waiting and running requests of one model."""

from collections.abc import Sequence
import dataclasses
import time

from kd.core import errors
from kd.sampling import continuous
from kd.serving import admission
from kd.serving import fair_queue
from kd.serving import served_model
from kd.serving import work as work_lib

# Initial and maximum delay until a failed model is retried. The delay doubles
# with each failure until the model answers.
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0


class ModelError(errors.KdError):
  """Raised if a model has failed; others may still answer."""


@dataclasses.dataclass(eq=False)
class Entry:
  """A prompt in the queue or in the batch.

  Attributes:
    work: the request.
    number: index of the prompt in the request.
    since: time of arrival, as time.monotonic().
    begun: number of answers that have started.
  """

  work: work_lib.Work
  number: int
  since: float
  begun: int = 0

  @property
  def prompt(self) -> work_lib.Prompt:
    return self.work.prompts[self.number]


class Lane:
  """A model, its queue and its running answers."""

  def __init__(self, model: served_model.ServedModel):
    self.model = model
    self.waiting: fair_queue.FairQueue[Entry] = fair_queue.FairQueue()
    # The prompt with answers that are being added to the batch.
    self.current: Entry | None = None
    self.estimate = admission.Estimate()
    self.last_left = 0.0
    # The prompt and the answer's index, by running answer.
    self.places: dict[continuous.Answer, tuple[Entry, int]] = {}
    self.started: dict[Entry, float] = {}
    self.fault = ''  # Why the model has failed; '' if it has not.
    self._wait_s = 0.0  # Retry delay; 0 if it has answered since the failure.
    self._retry_at = 0.0

  @property
  def is_busy(self) -> bool:
    """Returns whether there are waiting or running requests."""
    return bool(self.waiting or self.current or self.places)

  def queued(self, more: Sequence[work_lib.Prompt] = ()) -> int:
    """Returns the number of waiting prompts that cannot start at once.

    Args:
      more: prompts that would be added to the queue.
    """
    room, count = self.model.batch.room, 0
    current = self.current  # The scheduler's thread may replace it.
    if current:
      room -= len(current.prompt.answers) - current.begun
    for prompt in (*(entry.prompt for entry in self.waiting), *more):
      room -= max(len(prompt.answers), 1)
      count += room < 0
    return count

  def wait_s(self, client: str) -> float:
    """Returns the mean wait of a client's next prompt for its first token."""
    ahead = self.waiting.ahead(client) + (self.current is not None)
    return self.estimate.mean_s(ahead)

  def fail(self, fault: str) -> set[work_lib.Work]:
    """Records a failure; drops and returns all requests."""
    self.fault = fault
    self._wait_s = min(2 * self._wait_s or _FIRST_RETRY_S, _LONGEST_RETRY_S)
    self._retry_at = time.monotonic() + self._wait_s
    return self.clear()

  @property
  def retry_s(self) -> float:
    """Returns the seconds until the failed model is retried."""
    return max(self._retry_at - time.monotonic(), 0.0)

  def answered(self) -> None:
    """Records that the model works."""
    self._wait_s = 0.0

  def clear(self) -> set[work_lib.Work]:
    """Drops and returns all requests."""
    entries = [entry for entry, _ in self.places.values()]
    if self.current:
      entries.append(self.current)
    while self.waiting:
      entries.append(self.waiting.get())
    self.current = None
    self.places.clear()
    self.started.clear()
    return {entry.work for entry in entries}

  def left(self, entry: Entry) -> None:
    """Records that a prompt leaves the queue."""
    now = time.monotonic()
    passed = now - max(self.last_left, entry.since)
    self.estimate.left(passed)
    self.last_left = self.started[entry] = now

  def first_token(self, entry: Entry) -> None:
    """Records that a prompt has its first token."""
    start = self.started.pop(entry, None)
    if start is not None:
      self.estimate.first_token(time.monotonic() - start)
