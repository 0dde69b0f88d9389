"""Defines the HTTP routes."""

import asyncio
from collections.abc import Callable
import contextlib
import dataclasses
import hmac
import re
import traceback

from starlette import applications
from starlette import exceptions
from starlette import requests as http
from starlette import responses
from starlette import routing

from kd.core import errors
from kd.serving import drift as drift_lib
from kd.serving import exchange as exchange_lib
from kd.serving import http_errors
from kd.serving import metrics as metrics_lib
from kd.serving import replies
from kd.serving import router as router_lib
from kd.serving import scheduler as scheduler_lib
from kd.serving import wire
from kd.serving import work as work_lib

CHAT, COMPLETIONS = '/v1/chat/completions', '/v1/completions'
# Base64 data of images in requests.
_IMAGE_DATA = re.compile(r'(?<=;base64,)[A-Za-z0-9+/=\\]+')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of the routes.

  Attributes:
    key: API key of requests to /v1; '': none.
    max_request_bytes: maximum size of the body of a request.
    limits: limits of requests.
    log_prompts: whether to log prompts and answers.
  """

  key: str
  max_request_bytes: int
  limits: wire.Limits
  log_prompts: bool


class Server:
  """The routes and their shared state."""

  def __init__(
    self,
    scheduler: scheduler_lib.Scheduler,
    router: router_lib.Router,
    metrics: metrics_lib.Metrics,
    settings: Settings,
    say: Callable[[str], None],
    drift: drift_lib.Drift | None = None,
  ):
    """Initializes the server.

    Args:
      scheduler: answers requests.
      router: chooses the model of a request.
      metrics: metrics to update.
      settings: settings of the routes.
      say: writes a line to the log for each request.
      drift: compares answers with a teacher's; None without a teacher.
    """
    self._scheduler, self._router = scheduler, router
    self._metrics = metrics
    self._settings, self._say, self._drift = settings, say, drift

  def app(self) -> applications.Starlette:
    """Returns the ASGI application."""
    route = routing.Route
    return applications.Starlette(
      routes=[
        route(CHAT, self._answer, methods=['POST']),
        route(COMPLETIONS, self._answer, methods=['POST']),
        route('/v1/models', self._models),
        route('/health', self._health),
        route('/metrics', self._write_metrics),
      ],
      exception_handlers={exceptions.HTTPException: _no_route},
    )

  async def _health(self, request):
    del request
    state = self._scheduler.state
    is_ready = state == scheduler_lib.READY
    body = {'status': 'ok' if is_ready else state}
    if failed := self._scheduler.failed():
      body['failed'] = failed
    return responses.JSONResponse(body, 200 if is_ready else 503)

  async def _write_metrics(self, request):
    del request
    is_ready = self._scheduler.state == scheduler_lib.READY
    return responses.Response(
      self._metrics.text(is_ready), media_type=metrics_lib.CONTENT_TYPE
    )

  async def _models(self, request):
    try:
      self._check_key(request)
    except http_errors.HttpError as e:
      return e.response()
    models = [
      {
        'id': name,
        'object': 'model',
        'created': model.created,
        'owned_by': 'kd',
        'max_model_len': model.max_length,
      }
      for name, model in self._router.listed().items()
    ]
    return responses.JSONResponse({'object': 'list', 'data': models})

  def _check_key(self, request):
    if not self._settings.key:
      return
    _, _, given = request.headers.get('authorization', '').partition(' ')
    # In constant time, so that the time does not depend on the key. Starlette
    # decodes headers as Latin-1, and clients send UTF-8.
    if not hmac.compare_digest(
      given.encode('latin-1'), self._settings.key.encode()
    ):
      raise http_errors.HttpError(
        401,
        'the API key is missing or wrong; legal: Authorization: Bearer KEY',
        'authentication_error',
        'invalid_api_key',
        headers={'WWW-Authenticate': 'Bearer'},
      )

  async def _body(self, request) -> bytes:
    parts, size, most = [], 0, self._settings.max_request_bytes
    async for part in request.stream():
      size += len(part)
      if size > most:
        raise http_errors.HttpError(
          413,
          f'the request has more than {most} bytes (serve.max_request_bytes)',
          'invalid_request_error',
        )
      parts.append(part)
    return b''.join(parts)

  async def _answer(self, request: http.Request) -> responses.Response:
    exchange = exchange_lib.Exchange(
      request, self._router, self._metrics, self._say
    )
    try:
      self._check_key(request)
      body = await self._body(request)
      # In a thread, so that it does not block other requests.
      asked = await asyncio.to_thread(
        wire.read,
        body,
        request.url.path == CHAT,
        self._router.pick,
        self._settings.limits,
      )
      exchange.model = asked.model
      exchange.has_client_deadline = (
        asked.timeout_s < self._settings.limits.timeout_s
      )
      if self._settings.log_prompts:
        text = body.decode(errors='replace')
        self._say(f'prompt: {_IMAGE_DATA.sub(_length, text)}')
      return await self._submit(exchange, asked)
    except http.ClientDisconnect:
      exchange.ended(exchange_lib.CLIENT_LEFT)
      return responses.Response(status_code=exchange_lib.CLIENT_LEFT)
    except (http_errors.HttpError, errors.KdError) as e:
      error = http_errors.converted(e)
      exchange.ended(error.status, fault=http_errors.fault(e))
      return error.response()
    except Exception as e:
      # The message is not logged, because it may quote the request.
      where = ''.join(traceback.format_tb(e.__traceback__))
      self._say(f'error: {type(e).__name__}\n{where}')
      exchange.ended(500)
      error = http_errors.HttpError(
        500, 'internal server error', 'server_error'
      )
      return error.response()

  async def _submit(self, exchange, asked: wire.Request):
    """Queues a request; returns its reply, or the start of a stream."""
    client = exchange.request.client
    work = asked.work(client.host if client else '')
    # Reading the request counts towards its time.
    timeout_s = asked.timeout_s - exchange.age_s
    if timeout_s <= 0:
      raise _too_late(asked.timeout_s)
    self._scheduler.submit(work, timeout_s)
    reply = replies.Reply(asked, work)
    left = asyncio.create_task(_wait_for_disconnect(exchange.request))
    try:
      # The status of a stream is sent with its first token, so it can be 504.
      events = [await self._first(exchange, work, left, timeout_s)]
      if asked.stream:
        stream = exchange_lib.Stream(
          exchange, asked, work, reply, self._answered
        )
        return stream.response(events[0], self._scheduler.cancel)
      while sum(event.ended for event in events) < work.parts:
        events.append(await _next(work, left))
    except BaseException:
      self._scheduler.cancel(work)
      raise
    finally:
      left.cancel()
    self._answered(reply)
    exchange.ended(200, reply)
    return responses.JSONResponse(reply.whole())

  async def _first(self, exchange, work, left, timeout_s) -> work_lib.Event:
    """Waits for the first token, or for the end of a prompt without answers."""
    start = exchange.age_s
    try:
      async with asyncio.timeout(timeout_s):
        while True:
          event = await _next(work, left)
          if event.answer is not None or event.ended:
            exchange.token(work)
            waited_s = exchange.age_s - start
            self._scheduler.waited(work, waited_s, timeout_s)
            return event
    except TimeoutError as e:
      self._scheduler.waited(work, timeout_s, timeout_s)
      raise _too_late(start + timeout_s) from e

  def _answered(self, reply):
    if self._drift:
      self._drift.sample(self._scheduler, reply.work)
    if self._settings.log_prompts:
      for text in reply.texts():
        self._say(f'answer: {text!r}')


def _too_late(limit_s: float) -> http_errors.HttpError:
  return http_errors.HttpError(
    504,
    f'no token within {1000 * limit_s:.0f} ms (timeout_ms)',
    'timeout_error',
    'timeout',
  )


async def _no_route(request, error) -> responses.Response:
  """Returns the reply to an unknown path or method."""
  return http_errors.HttpError(
    error.status_code,
    f'{request.method} {request.url.path}: {error.detail}',
    'invalid_request_error',
    headers=error.headers,
  ).response()


async def _wait_for_disconnect(request: http.Request) -> None:
  """Waits until the client has left."""
  while (await request.receive())['type'] != 'http.disconnect':
    pass


async def _next(work: work_lib.Work, left: asyncio.Task) -> work_lib.Event:
  """Returns the next event.

  Raises:
    ClientDisconnect: the client left before the event.
    NonFiniteError: the logits of a prompt or answer are NaN or infinite.
  """
  event = asyncio.ensure_future(work.event())
  try:
    await asyncio.wait((event, left), return_when=asyncio.FIRST_COMPLETED)
    if not event.done():
      raise http.ClientDisconnect
    return exchange_lib.checked(work, event.result())
  finally:
    event.cancel()
    with contextlib.suppress(asyncio.CancelledError, errors.KdError):
      await event


def _length(data: re.Match) -> str:
  return f'[{len(data.group()):,} characters]'
