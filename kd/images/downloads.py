"""Downloads files with one deadline for the whole transfer.

A socket's timeout restarts with every byte, so a server that sends one byte per
second could hold a thread indefinitely.
"""

import contextlib
import http.client
import socket
import threading
import time
import urllib.request


class _Deadline:
  """Shuts the registered connections when the time is over."""

  def __init__(self, seconds: float):
    self._ends = time.monotonic() + seconds
    self._lock = threading.Lock()
    self._sockets: list[socket.socket] = []
    self._timer = threading.Timer(seconds, self._shut)
    self._timer.daemon = True
    self._timer.start()

  @property
  def passed(self) -> bool:
    return time.monotonic() >= self._ends

  def add(self, connection: socket.socket) -> None:
    """Registers a copy of a connection, since TLS detaches the original."""
    with self._lock:
      self._sockets.append(connection.dup())
    if self.passed:
      self._shut()

  def _shut(self):
    with self._lock:
      for one in self._sockets:
        with contextlib.suppress(OSError):
          one.shutdown(socket.SHUT_RDWR)

  def close(self) -> None:
    self._timer.cancel()
    with self._lock:
      for one in self._sockets:
        one.close()
      self._sockets.clear()


def _handlers(deadline):
  """Returns HTTP handlers that register their connections with a deadline."""

  class Plain(http.client.HTTPConnection):
    def connect(self):
      super().connect()
      deadline.add(self.sock)

  class Secure(http.client.HTTPSConnection, Plain):
    """Registers its socket before the handshake, through Plain.connect."""

  class Http(urllib.request.HTTPHandler):
    def http_open(self, req):
      return self.do_open(Plain, req)

  class Https(urllib.request.HTTPSHandler):
    def https_open(self, req):
      return self.do_open(Secure, req)

  return Http(), Https()


def read(url: str, most_bytes: int, seconds: float) -> bytes:
  """Returns the content of a URL, up to a number of bytes.

  Args:
    url: an http: or https: URL.
    most_bytes: maximum number of bytes to read.
    seconds: limit for connection, headers, redirects and content together.

  Raises:
    TimeoutError: the download took longer.
    OSError: the URL cannot be read.
    ValueError: the URL is malformed.
    http.client.HTTPException: the response is not valid HTTP.
  """
  deadline = _Deadline(seconds)
  # build_opener would add an ftp: handler, and servers may redirect to ftp:.
  opener = urllib.request.OpenerDirector()
  for handler in (
    urllib.request.ProxyHandler(),
    urllib.request.UnknownHandler(),
    urllib.request.HTTPDefaultErrorHandler(),
    urllib.request.HTTPRedirectHandler(),
    urllib.request.HTTPErrorProcessor(),
    *_handlers(deadline),
  ):
    opener.add_handler(handler)
  try:
    with opener.open(url, timeout=seconds) as reply:
      data = reply.read(most_bytes)
  except (OSError, http.client.HTTPException) as e:
    if deadline.passed:
      raise TimeoutError(f'took longer than {seconds:g} s') from e
    raise
  finally:
    deadline.close()
  if deadline.passed:
    raise TimeoutError(f'took longer than {seconds:g} s')
  return data
