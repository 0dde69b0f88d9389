"""Downloads with one deadline for everything, from the first byte to the last.

A time-out of a socket begins again with every byte: a server that sends one a
second would hold a thread for as long as it likes.
"""

import contextlib
import http.client
import socket
import threading
import time
import urllib.request


class _Deadline:
  """Shuts the connections that were added to it once its time is over."""

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
    """Adds a connection; its copy stays open when TLS takes the socket over."""
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
  """Returns handlers whose connections end with the deadline."""

  class Plain(http.client.HTTPConnection):
    def connect(self):
      super().connect()
      deadline.add(self.sock)

  class Secure(http.client.HTTPSConnection, Plain):
    """Adds its socket before the handshake, by way of Plain.connect."""

  class Http(urllib.request.HTTPHandler):
    def http_open(self, req):
      return self.do_open(Plain, req)

  class Https(urllib.request.HTTPSHandler):
    def https_open(self, req):
      return self.do_open(Secure, req)

  return Http(), Https()


def read(url: str, most_bytes: int, seconds: float) -> bytes:
  """Returns the beginning of what a URL has.

  Args:
    url: http: or https:.
    most_bytes: the rest is not read.
    seconds: for connecting, headers, redirects and content together.

  Raises:
    TimeoutError: it took longer.
    OSError: it cannot be read.
    ValueError: it is no URL.
    http.client.HTTPException: the server does not speak HTTP.
  """
  deadline = _Deadline(seconds)
  # build_opener would add ftp:, to which a server may redirect.
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
