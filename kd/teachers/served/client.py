"""Sends requests to servers that may be slow, busy or down for a while."""

from collections.abc import Mapping, Sequence
import copy
import dataclasses
import http.client
import itertools
import json
import random
import threading
from typing import Any
import urllib.error

from absl import logging

from kd.core import endpoints
from kd.core import errors
from kd.input_pipeline import retry
from kd.teachers.served import budget as budget_lib

_URL = 'teacher.server.url'
_TOO_MANY = 429  # Nothing was computed.
_TRANSIENT = (408, 409, 425, _TOO_MANY, 500, 502, 503, 504, 529)
_LONGEST_WAIT_S = 600.0
_SHOWN = 2000  # Bytes of an error reply.


class RefusedError(errors.ConfigError):
  """The server refuses a request; a retry would not help."""

  def __init__(self, status: int, problem: str):
    super().__init__(_URL, f'{problem} (status {status})')


@dataclasses.dataclass(frozen=True)
class Patience:
  """Retry settings.

  Attributes:
    attempts: maximum number of attempts per request, 1 or more.
    wait_s: seconds before the second attempt; doubled each time, with jitter.
    timeout_s: seconds to wait for a reply.
  """

  attempts: int
  wait_s: float
  timeout_s: float


class Client:
  """A client of servers that answer alike; thread-safe.

  Each request goes to the next server, and a failed one to the others before
  it waits.

  Attributes:
    urls: the URL of each server.
  """

  def __init__(
    self,
    urls: Sequence[str],
    key_variable: str,
    patience: Patience,
    budget: budget_lib.Budget,
  ):
    """Initializes the client.

    Args:
      urls: URL of each server, with its /v1.
      key_variable: environment variable with the API key.
      patience: retry settings.
      budget: budget that counts each attempt.
    """
    self.urls = tuple(url.rstrip('/') for url in urls)
    self._key_variable = key_variable
    self._patience, self._budget = patience, budget
    self._closed, self._numbers = threading.Event(), itertools.count()

  @property
  def url(self) -> str:
    """URL of the first server."""
    return self.urls[0]

  def each(self) -> list['Client']:
    """Returns a client of each server alone, closed together with this one."""
    alone = [copy.copy(self) for _ in self.urls]
    for client, url in zip(alone, self.urls, strict=True):
      client.urls = (url,)
    return alone

  def close(self) -> None:
    """Stops sending requests; those that wait for a retry fail."""
    self._closed.set()

  def get(self, path: str) -> Any:
    """Returns the JSON reply to a GET request, which costs nothing.

    Args:
      path: path that is appended to the URL.

    Raises:
      ConfigError, ReadError: as for `post`.
    """
    return self._ask(path, None, 0, 0)

  def post(
    self, path: str, fields: Mapping[str, Any], prompt: int, generated: int
  ) -> Any:
    """Returns the JSON reply to a request.

    Args:
      path: path that is appended to the URL; after '/..', to the URL without
        its /v1.
      fields: fields of the request.
      prompt: maximum number of tokens of the prompt.
      generated: maximum number of generated tokens. The budget counts both
        until the reply reports the actual numbers.

    Raises:
      RefusedError: the server refuses the request.
      ConfigError: the server refuses the API key, or the budget is spent.
      ReadError: every attempt failed.
    """
    return self._ask(path, fields, prompt, generated)

  def _url(self, number, path):
    """Returns the URL of a path on the server with a number, modulo all."""
    url = self.urls[number % len(self.urls)]
    if path.startswith('/..'):
      return url.removesuffix('/v1') + path.removeprefix('/..')
    return url + path

  def _ask(self, path, fields, prompt, generated):
    patience, wait = self._patience, self._patience.wait_s
    first = next(self._numbers)
    problem = 'the run is stopping'
    for attempt in range(1, patience.attempts + 1):
      if self._closed.is_set():
        break
      asked_to_wait, url = None, self._url(first + attempt - 1, path)
      try:
        if fields is None:
          return self._reply(url, fields)
        return self._counted(url, fields, prompt, generated)
      except urllib.error.HTTPError as e:
        detail = _detail(e)
        problem = f'{url}: {detail or e.reason}'
        if e.code not in _TRANSIENT:
          raise self._refused(e.code, problem) from e
        problem += f' (status {e.code})'
        asked_to_wait = _seconds(e.headers.get('Retry-After'))
      except (OSError, http.client.HTTPException, ValueError) as e:
        # A truncated reply is not valid JSON.
        problem = f'{url}: {type(e).__name__}: {e}'
      if attempt < patience.attempts:
        logging.error('attempt %d: %s', attempt, problem)
        if attempt % len(self.urls):
          continue  # Another server has not been asked yet.
        varied = wait * random.uniform(0.5, 1.0)
        if self._closed.wait(max(varied, asked_to_wait or 0.0)):
          break
        wait = min(2 * wait, _LONGEST_WAIT_S)
    raise retry.ReadError(
      f'no reply in {patience.attempts} attempts: {problem}; once the server '
      'answers, the same command resumes'
    )

  def _counted(self, url, fields, prompt, generated):
    """Returns a reply and counts its costs."""
    self._budget.reserve(prompt, generated)
    used = None  # A request that fails may have been paid for.
    try:
      reply = self._reply(url, fields)
      used = _used(reply)
      return reply
    except urllib.error.HTTPError as e:
      if e.code == _TOO_MANY:
        used = 0, 0
      raise
    finally:
      self._budget.settle(prompt, generated, used)

  def _reply(self, url, fields):
    with endpoints.open_url(
      url, fields, self._key_variable, self._patience.timeout_s
    ) as response:
      return json.load(response)

  def _refused(self, status, problem):
    if status in (401, 403):
      return errors.ConfigError(
        'teacher.server.key_variable',
        f'found {self._key_variable!r}: {problem}',
        legal='an environment variable with a key that the server accepts',
      )
    return RefusedError(status, problem)


def _used(reply: Any) -> tuple[int, int] | None:
  """Returns the numbers of prompt and generated tokens, if reported."""
  usage = reply.get('usage') if isinstance(reply, dict) else None
  try:
    counts = usage['prompt_tokens'], usage['completion_tokens']
  except (KeyError, TypeError):
    return None
  is_count = all(isinstance(x, int) and x >= 0 for x in counts)
  return counts if is_count else None


def _detail(error: urllib.error.HTTPError) -> str:
  """Returns the message of an error reply; '' if it cannot be read."""
  try:
    return endpoints.detail(error.read(_SHOWN))
  except (OSError, http.client.HTTPException):
    return ''


def _seconds(retry_after: str | None) -> float | None:
  """Returns the seconds of a Retry-After header; None if it has none."""
  try:
    seconds = float(retry_after or '')
  except ValueError:
    return None
  return min(seconds, _LONGEST_WAIT_S) if seconds > 0 else None
