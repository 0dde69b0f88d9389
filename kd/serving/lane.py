"""The requests of one model: those that wait, and those that are answered."""

from collections.abc import Sequence
import dataclasses
import time

from kd.core import errors
from kd.sampling import continuous
from kd.serving import admission
from kd.serving import fair_queue
from kd.serving import served_model
from kd.serving import work as work_lib

# Seconds from a model's failure until it is tried again: doubled each time, up
# to the longest, until it has answered.
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0


class ModelError(errors.KdError):
  """A model has failed; others may still answer."""


@dataclasses.dataclass(eq=False)
class Entry:
  """A prompt that waits.

  Attributes:
    work: its request.
    number: of the prompt in it.
    since: when it came, in seconds.
    begun: answers that have begun.
  """

  work: work_lib.Work
  number: int
  since: float
  begun: int = 0

  @property
  def prompt(self) -> work_lib.Prompt:
    return self.work.prompts[self.number]


class Lane:
  """A model with its queue."""

  def __init__(self, model: served_model.ServedModel):
    self.model = model
    self.waiting: fair_queue.FairQueue[Entry] = fair_queue.FairQueue()
    # The prompt whose answers are beginning.
    self.current: Entry | None = None
    self.estimate = admission.Estimate()
    self.last_left = 0.0
    # The places of answers that grow.
    self.places: dict[continuous.Answer, tuple[Entry, int]] = {}
    self.started: dict[Entry, float] = {}
    self.fault = ''  # Why the model answers no requests, if so.
    self._wait_s = 0.0  # After the last failure; 0: it has answered since.
    self._retry_at = 0.0

  @property
  def is_busy(self) -> bool:
    """Returns whether requests wait or are answered."""
    return bool(self.waiting or self.current or self.places)

  def queued(self, more: Sequence[work_lib.Prompt] = ()) -> int:
    """Returns how many prompts wait that do not begin at once.

    Args:
      more: prompts that would come behind the others.
    """
    room, count = self.model.batch.room, 0
    current = self.current  # The scheduler's thread may replace it meanwhile.
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
    """Notes a failure; drops all requests, and returns them."""
    self.fault = fault
    self._wait_s = min(2 * self._wait_s or _FIRST_RETRY_S, _LONGEST_RETRY_S)
    self._retry_at = time.monotonic() + self._wait_s
    return self.clear()

  @property
  def retry_s(self) -> float:
    """Returns the seconds until a model that has failed is tried again."""
    return max(self._retry_at - time.monotonic(), 0.0)

  def answered(self) -> None:
    """Notes that the model works."""
    self._wait_s = 0.0

  def clear(self) -> set[work_lib.Work]:
    """Drops all requests, and returns them."""
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
    """Notes that a prompt leaves the queue."""
    now = time.monotonic()
    passed = now - max(self.last_left, entry.since)
    self.estimate.left(passed)
    self.last_left = self.started[entry] = now

  def first_token(self, entry: Entry) -> None:
    """Notes that a prompt has its first token."""
    start = self.started.pop(entry, None)
    if start is not None:
      self.estimate.first_token(time.monotonic() - start)
