"""Runs the HTTP server in the main thread until it is stopped."""

from collections.abc import Iterator
import contextlib
import math
import socket

from starlette import applications
import uvicorn

from kd.config.fields import serve as serve_fields
from kd.core import addresses
from kd.core import errors


def check_host(host: str, has_key: bool, without_key: bool) -> None:
  """Checks that a server open to other machines has an API key.

  Raises:
    ConfigError: the address is not loopback, and there is no key.
  """
  if addresses.is_loopback(host) or has_key or without_key:
    return
  raise errors.ConfigError(
    'serve.host',
    f'found {host!r}, reachable from other machines, without an API key',
    legal=f'127.0.0.1, or a key in {serve_fields.KEY_VARIABLE}, or '
    'serve.without_key=True',
  )


def bind(host: str, port: int) -> socket.socket:
  """Returns a listening socket.

  Raises:
    ConfigError: the port is in use, or the address is not this machine's.
  """
  try:
    first, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, address = first[0], first[4]
    return socket.create_server(address[:2], family=family, backlog=2048)
  except OSError as e:
    raise errors.ConfigError(
      'serve.port',
      f'cannot listen on {host}:{port}: {e.strerror}',
      legal='a free port of an address of this machine',
    ) from e


class Listener:
  """An HTTP server."""

  def __init__(self, app: applications.Starlette, stop_s: float):
    """Initializes the server.

    Args:
      app: the routes.
      stop_s: maximum seconds for running requests to end after `stop`.
    """
    self._server = _Server(
      uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan='off',
        # uvloop would handle the signals itself.
        loop='asyncio',
        http='h11',
        server_header=False,
        timeout_graceful_shutdown=math.ceil(stop_s),
      )
    )

  def run(self, listening: socket.socket) -> None:
    """Answers until `stop` is called."""
    self._server.run([listening])

  def stop(self) -> None:
    """Makes `run` close the socket and wait for requests; thread-safe."""
    self._server.should_exit = True


class _Server(uvicorn.Server):
  """Leaves signals to kd.train.preemption."""

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    yield
