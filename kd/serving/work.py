"""Defines the prompts, answers and events that the server's threads share."""

import asyncio
from collections.abc import Sequence
import contextlib
import dataclasses

from kd.core import errors
from kd.sampling import continuous
from kd.sampling import images as images_lib
from kd.serving import served_model


@dataclasses.dataclass(frozen=True)
class Event:
  """An event of a prompt.

  Attributes:
    prompt: index of the prompt in the request.
    answer: index of the answer that has new ids or has ended; None: the prompt
      was prefilled.
    count: number of ids of the answer.
    ended: whether this is the last event of the answer, or of a prompt without
      answers.
  """

  prompt: int
  answer: int | None = None
  count: int = 0
  ended: bool = False


@dataclasses.dataclass(eq=False)
class Prompt:
  """A prompt of a request.

  Attributes:
    ids: token ids.
    answers: requested answers; [] if the prompt is only scored.
    scored: whether to compute log-probabilities of the prompt's ids.
    read: the prefilled prompt; its cache is dropped once all answers have
      started.
    error: error of the prefill; None without one.
    images: decoded images.
  """

  ids: tuple[int, ...]
  answers: list[continuous.Answer]
  scored: bool
  read: continuous.Prefilled | None = None
  error: errors.NonFiniteError | None = None
  images: Sequence[images_lib.Image] = ()


@dataclasses.dataclass(eq=False)
class Work:
  """The prompts of a request, and the events for its handler.

  Must be created within the event loop of the handler.

  Attributes:
    model: model that answers.
    prompts: prompts of the request.
    client: name of the client, for fair queuing.
    wait_s: estimated mean wait for the first token at arrival, in seconds.
    begun: time when its first prompt left the queue, as time.monotonic(); None
      before.
  """

  model: served_model.ServedModel
  prompts: Sequence[Prompt]
  client: str
  wait_s: float = 0.0
  begun: float | None = None

  def __post_init__(self):
    self._loop = asyncio.get_running_loop()
    self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()

  def notify(self, event: Event | Exception) -> None:
    """Passes an event, or an error that ends the request, to the handler."""
    # The loop may be closed at any time; then no handler waits.
    with contextlib.suppress(RuntimeError):
      self._loop.call_soon_threadsafe(self._events.put_nowait, event)

  async def event(self) -> Event:
    """Waits for the next event.

    Raises:
      KdError: the server cannot continue the request.
    """
    event = await self._events.get()
    if isinstance(event, Exception):
      raise event
    return event

  @property
  def parts(self) -> int:
    """Returns the number of events with `ended`."""
    return sum(max(len(prompt.answers), 1) for prompt in self.prompts)
