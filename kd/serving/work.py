"""What the server's threads pass to each other: prompts, answers, events."""

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
  """What has happened to a prompt.

  Attributes:
    prompt: its number in the request.
    answer: the answer's number, if one has grown or ended; None: the prompt was
      read.
    count: the answer's ids that stay.
    ended: whether there is no further event of the answer, or, of a prompt
      without answers, of the prompt.
  """

  prompt: int
  answer: int | None = None
  count: int = 0
  ended: bool = False


@dataclasses.dataclass(eq=False)
class Prompt:
  """A prompt of a request.

  Attributes:
    ids: its token ids.
    answers: that are asked for; none of a prompt that is only scored.
    scored: whether log-probabilities of the prompt's ids are asked for.
    read: the prompt when it was read; its cache is dropped with the last
      answer's begin.
    error: why it could not be read, if so.
    images: its decoded images.
  """

  ids: tuple[int, ...]
  answers: list[continuous.Answer]
  scored: bool
  read: continuous.Prefilled | None = None
  error: errors.NonFiniteError | None = None
  images: Sequence[images_lib.Image] = ()


@dataclasses.dataclass(eq=False)
class Work:
  """A request's prompts, and the events that its handler waits for.

  Made within the event loop of the handler.

  Attributes:
    model: that answers.
    prompts: of the request.
    client: who sent it; clients take turns.
    wait_s: the mean wait for a first token, as it was estimated when it came.
    begun: when its first prompt left the queue, as time.monotonic(); None
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
    """Passes an event, or what ended the server, to the handler."""
    # Nobody waits once the loop is closed, which it may be at any time.
    with contextlib.suppress(RuntimeError):
      self._loop.call_soon_threadsafe(self._events.put_nowait, event)

  async def event(self) -> Event:
    """Waits for the next event.

    Raises:
      KdError: the server cannot go on with the request.
    """
    event = await self._events.get()
    if isinstance(event, Exception):
      raise event
    return event

  @property
  def parts(self) -> int:
    """Returns the number of events that are an end."""
    return sum(max(len(prompt.answers), 1) for prompt in self.prompts)
