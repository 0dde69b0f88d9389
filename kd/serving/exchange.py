"""Handles one request from its arrival to its end, whole or as a stream."""

from collections.abc import AsyncIterator, Callable
import json
import time
from typing import Any

from starlette import requests as http
from starlette import responses

from kd.core import errors
from kd.serving import http_errors
from kd.serving import metrics as metrics_lib
from kd.serving import replies
from kd.serving import router as router_lib
from kd.serving import served_model
from kd.serving import wire
from kd.serving import work as work_lib

# The status that proxies log if a client leaves before its answer.
CLIENT_LEFT = 499
_TOO_LATE = 504


class Exchange:
  """A request and its times.

  Attributes:
    request: the HTTP request.
    model: model that answers; None until it is known.
    has_client_deadline: whether the deadline is earlier than the server's own.
  """

  def __init__(
    self,
    request: http.Request,
    router: router_lib.Router,
    metrics: metrics_lib.Metrics,
    say: Callable[[str], None],
  ):
    """Initializes the exchange.

    Args:
      request: the HTTP request, which has just arrived.
      router: receives the result of the request.
      metrics: metrics to update.
      say: writes a line to the log at the end.
    """
    self.request, self._router = request, router
    self._metrics, self._say = metrics, say
    self._start = time.monotonic()
    self._first_s: float | None = None
    self.model: served_model.ServedModel | None = None
    self.has_client_deadline = False

  @property
  def age_s(self) -> float:
    """Returns the seconds since the request arrived."""
    return time.monotonic() - self._start

  def token(self, work: work_lib.Work) -> None:
    """Records the time of the first token."""
    if self._first_s is None:
      now = time.monotonic()
      # Excludes the queue, which would delay an answer of any model.
      self._first_s = now - work.begun
      self._metrics.first_token(self.model.name, now - self._start)

  def ended(
    self, code: int, reply: replies.Reply | None = None, fault: str = ''
  ) -> None:
    """Counts and logs the request.

    Args:
      code: HTTP status.
      reply: the answers; None if the request was not answered.
      fault: why the model must get no more requests; '' if it may.
    """
    seconds = time.monotonic() - self._start
    path = self.request.url.path
    name = self.model.name if self.model else ''
    self._metrics.ended(name, path, code, seconds)
    # A deadline that the client chose does not count against the model.
    if self.model and not (self.has_client_deadline and code == _TOO_LATE):
      self._router.note(self.model, code, self._first_s, fault)
    line = f'{path} {code} {seconds:.3f} s'
    if reply is not None:
      usage = reply.usage()
      counts = usage['prompt_tokens'], usage['completion_tokens']
      self._metrics.tokens(name, *counts)
      line += f' {name} {counts[0]} + {counts[1]} tokens'
    self._say(line)


class Stream:
  """A reply that is sent in parts as it is generated."""

  def __init__(
    self,
    exchange: Exchange,
    asked: wire.Request,
    work: work_lib.Work,
    reply: replies.Reply,
    answered: Callable[[replies.Reply], None],
  ):
    self._exchange, self._asked, self._work = exchange, asked, work
    self._reply, self._answered = reply, answered
    self._code, self._fault = CLIENT_LEFT, ''

  def response(
    self,
    event: work_lib.Event,
    cancel: Callable[[work_lib.Work], None],
  ) -> responses.Response:
    """Returns the response.

    Args:
      event: the first event.
      cancel: called with the work if the stream ends early.
    """
    return _Closing(self._chunks(event), lambda: self._end(cancel))

  def _end(self, cancel):
    is_whole = self._code == 200
    if not is_whole:
      cancel(self._work)
    reply = self._reply if is_whole else None
    self._exchange.ended(self._code, reply, self._fault)

  async def _chunks(self, event) -> AsyncIterator[bytes]:
    ends = 0
    try:
      for chunk in self._reply.first_chunks():
        yield _sse(chunk)
      while True:
        for chunk in self._reply.chunks(event):
          yield _sse(chunk)
        ends += event.ended
        if ends == self._work.parts:
          break
        event = checked(self._work, await self._work.event())
      if self._asked.include_usage:
        yield _sse(self._reply.usage_chunk())
      yield b'data: [DONE]\n\n'
      self._code = 200
      self._answered(self._reply)
    except errors.KdError as e:
      error = http_errors.converted(e)
      self._code, self._fault = error.status, http_errors.fault(e)
      yield _sse(error.body)


class _Closing(responses.StreamingResponse):
  """A stream of events that calls `at_end`, even if it never started."""

  def __init__(self, content: AsyncIterator[bytes], at_end: Callable[[], None]):
    super().__init__(content, media_type='text/event-stream')
    self._at_end = at_end

  async def __call__(self, scope, receive, send) -> None:
    try:
      await super().__call__(scope, receive, send)
    finally:
      self._at_end()


def checked(work: work_lib.Work, event: work_lib.Event) -> work_lib.Event:
  """Returns the event, or raises the error of its prompt or answer."""
  prompt = work.prompts[event.prompt]
  error = prompt.error
  if event.answer is not None:
    error = prompt.answers[event.answer].error
  if error:
    raise error
  return event


def _sse(body: dict[str, Any]) -> bytes:
  return f'data: {json.dumps(body, ensure_ascii=False)}\n\n'.encode()
