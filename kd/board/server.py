"""Serves the board to browsers on this machine.

The server listens only on the loopback address and answers only requests with
that host, so that pages of other sites cannot read runs through the browser. A
request's path selects one of the board's files or pages. It is never used as a
path of the file system.
"""

from collections.abc import Sequence
import http
from http import server
import json
import os
import sys
import urllib.parse

from kd.board import chat
from kd.board import pages as pages_lib
from kd.core import errors

HOST = '127.0.0.1'
_KINDS = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
}
_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'page')
_HEADERS = {
  'Content-Security-Policy': "default-src 'self'; img-src 'self' data:; "
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cache-Control': 'no-store',
}
_MOST_BYTES = 1 << 20  # Maximum size of a chat request.


def files() -> dict[str, bytes]:
  """Returns the contents of the page's files by URL path."""
  contents = {}
  for name in sorted(os.listdir(_FOLDER)):
    if os.path.splitext(name)[1] in _KINDS:
      with open(os.path.join(_FOLDER, name), 'rb') as f:
        contents[f'/{name}'] = f.read()
  contents['/'] = contents['/index.html']
  return contents


def bind(
  pages: pages_lib.Pages, models: Sequence[str], port: int
) -> server.ThreadingHTTPServer:
  """Returns a listening server; call `serve_forever` to serve.

  Args:
    pages: the pages to serve.
    models: URLs of the servers for the chat.
    port: port on 127.0.0.1; 0: any free one.

  Raises:
    ConfigError: the server cannot listen on the port.
  """
  handler = type('Handler', (_Handler,), {})
  handler.pages, handler.models, handler.files = pages, models, files()
  try:
    return _Server((HOST, port), handler)
  except OSError as e:
    raise errors.ConfigError(
      'board.port',
      f'cannot listen on {HOST}:{port}: {e.strerror}',
      legal='a free port; 0: any',
    ) from e


class _Server(server.ThreadingHTTPServer):
  """A server that does not report closed connections."""

  def handle_error(self, request, client_address):
    if not isinstance(sys.exception(), OSError):
      super().handle_error(request, client_address)


class _Handler(server.BaseHTTPRequestHandler):
  """One connection."""

  pages: pages_lib.Pages
  models: Sequence[str]
  files: dict[str, bytes]
  protocol_version = 'HTTP/1.1'
  server_version, sys_version = 'kd', ''
  timeout = 120  # Seconds of silence.

  def do_GET(self):  # noqa: N802
    if not self._is_local():
      return
    path, _, query = self.path.partition('?')
    if path in self.files:
      kind = _KINDS[os.path.splitext(path)[1] or '.html']
      self._send(http.HTTPStatus.OK, self.files[path], kind)
      return
    try:
      # Blank values are kept: an empty condition replaces the command line's.
      parameters = urllib.parse.parse_qs(
        query, keep_blank_values=True, max_num_fields=1000
      )
      self._send(http.HTTPStatus.OK, self.pages.answer(path, parameters))
    except pages_lib.NotFoundError as e:
      self._refuse(http.HTTPStatus.NOT_FOUND, str(e))
    except (errors.ConfigError, ValueError) as e:
      self._refuse(http.HTTPStatus.BAD_REQUEST, str(e))

  def do_POST(self):  # noqa: N802
    if not self._is_local():
      return
    # Pages of other sites cannot send JSON without a preflight request.
    is_json = self.headers.get_content_type() == 'application/json'
    length = self.headers.get('Content-Length', '')
    if self.path != '/api/chat' or not is_json:
      self.close_connection = True
      self._refuse(http.HTTPStatus.NOT_FOUND, 'no such page')
      return
    if not length.isdecimal() or int(length) > _MOST_BYTES:
      self.close_connection = True
      self._refuse(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE, 'too long')
      return
    body = self.rfile.read(int(length))
    try:
      parts = chat.stream(self.models, json.loads(body))
    except (ValueError, RecursionError, errors.KdError) as e:
      self._refuse(http.HTTPStatus.BAD_REQUEST, str(e))
      return
    self.close_connection = True
    self.send_response(http.HTTPStatus.OK)
    self._send_headers('text/event-stream', None)
    for part in parts:
      self.wfile.write(part)
      self.wfile.flush()

  def _is_local(self):
    name = self.headers.get('Host', '').rpartition(':')[0]
    # Browsers mark requests from other sites. Those could not read the answer,
    # but the board would compute it.
    site = self.headers.get('Sec-Fetch-Site', 'none')
    is_own = site in ('none', 'same-origin') or not self.path.startswith('/api')
    if name in (HOST, 'localhost') and is_own:
      return True
    self.close_connection = True
    self._refuse(http.HTTPStatus.FORBIDDEN, f'the board is at {HOST}')
    return False

  def _refuse(self, status, message):
    self._send(status, json.dumps({'error': message}).encode())

  def _send(self, status, body, kind='application/json'):
    self.send_response(status)
    self._send_headers(kind, len(body))
    self.wfile.write(body)

  def _send_headers(self, kind, length):
    self.send_header('Content-Type', kind)
    if length is None:
      self.send_header('Connection', 'close')
    else:
      self.send_header('Content-Length', str(length))
    for name, value in _HEADERS.items():
      self.send_header(name, value)
    self.end_headers()

  def log_message(self, *args):
    """Logs nothing, to keep the URL visible in the terminal."""
