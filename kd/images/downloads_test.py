"""Downloads from a slow server."""

import contextlib
import socket
import threading
import time

import pytest

from kd.images import downloads


@contextlib.contextmanager
def _server(*pieces, pause_s=0.0):
  """Serves pieces, each after a pause, on each connection; returns the URL."""
  with socket.create_server(('127.0.0.1', 0)) as server:

    def serve():
      with contextlib.suppress(OSError):
        while True:
          connection, _ = server.accept()
          with connection:
            connection.recv(4096)
            for piece in pieces:
              connection.sendall(piece)
              time.sleep(pause_s)

    threading.Thread(target=serve, daemon=True).start()
    yield f'http://127.0.0.1:{server.getsockname()[1]}/x.png'


_HEAD = b'HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n'


def test_headers_and_content_share_one_deadline():
  with _server(_HEAD, b'x' * 100) as url:
    assert downloads.read(url, 1000, 10) == b'x' * 100
    assert downloads.read(url, 7, 10) == b'x' * 7
  drip = [bytes([b]) for b in _HEAD + b'x' * 100]
  # Endless headers, and an endless body.
  for pieces in (drip, [_HEAD, *drip]):
    with _server(*pieces, pause_s=0.1) as url:
      began = time.monotonic()
      with pytest.raises(TimeoutError, match=r'longer than 0\.4 s'):
        downloads.read(url, 1000, 0.4)
      assert time.monotonic() - began < 3
  with pytest.raises(OSError):
    downloads.read(url, 1000, 10)
