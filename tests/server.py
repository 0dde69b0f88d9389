"""Runs a server in a separate process and sends requests to it."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import http.client
import json
import os
import re
import time
from typing import Any

from tests import command
from tests import page_commands
from tests import warm

KEY = 'a-key-of-tests'
MODEL = 'data/fixtures/quickstart_teacher'
_FLAGS = (
  '--config.serve.port=0',
  '--config.serve.max_batch=4',
  '--config.serve.max_length=128',
  '--config.serve.queue=2',
  '--config.serve.steps=2',
  # Test machines are slow; a test of the deadline sets a shorter one.
  '--config.serve.timeout_ms=120000',
  '--config.serve.max_request_bytes=4000',
)


class Server:
  """A running server.

  Attributes:
    process: process of the server.
    port: port that it listens on.
  """

  def __init__(self, process: warm.Process):
    self.process = process
    listens = lambda: re.search(r'listening on http://\S+:(\d+)', self.text)
    self.until(listens)
    self.port = int(listens()[1])

  @property
  def text(self) -> str:
    """The server's output so far."""
    return self.process.text('out')

  def until(self, is_so: Callable[[], Any]) -> None:
    """Waits until a condition holds; fails if the server ends."""
    for _ in range(12_000):
      if is_so():
        return
      assert self.process.poll() is None, command.finish(self.process)
      time.sleep(0.05)
    raise AssertionError(self.text)

  def wait_until_ready(self) -> None:
    """Waits until the status of /health is 200 instead of 503."""
    self.until(lambda: self.send('/health')[0] == 200)

  def connect(
    self, path: str, body: Any = None, key: str = KEY
  ) -> http.client.HTTPConnection:
    """Sends a request."""
    connection = http.client.HTTPConnection('127.0.0.1', self.port, 300)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {'Authorization': f'Bearer {key}'} if key else {}
    method = 'GET' if body is None else 'POST'
    connection.request(method, path, data, headers)
    return connection

  def open(
    self, path: str, body: Any = None, key: str = KEY
  ) -> http.client.HTTPResponse:
    """Sends a request; returns the response with its body unread."""
    return self.connect(path, body, key).getresponse()

  def send(
    self, path: str, body: Any = None, key: str = KEY
  ) -> tuple[int, Any, dict[str, str]]:
    """Sends a request; returns the reply's status, body and headers."""
    response = self.open(path, body, key)
    headers = {k.lower(): v for k, v in response.getheaders()}
    data = response.read()
    is_json = headers.get('content-type') == 'application/json'
    return response.status, json.loads(data) if is_json else data, headers


@contextlib.contextmanager
def running(*more: str, flags: Sequence[str] = ()) -> Iterator[Server]:
  """Runs a server until the block ends.

  Args:
    *more: arguments of kd; by default those in docs/serve.md.
    flags: arguments in addition to those.
  """
  mode, *words = more or page_commands.commands('docs/serve.md')[0]
  os.environ['KD_API_KEY'] = KEY
  try:
    process = command.start([f'--mode={mode}', *words, *_FLAGS, *flags])
  finally:
    del os.environ['KD_API_KEY']
  try:
    yield Server(process)
  finally:
    process.kill()
    process.wait(60)
