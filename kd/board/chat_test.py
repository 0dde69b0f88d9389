"""Tests that the board's chat sends its key only to the named servers."""

import contextlib
from http import server
import threading

import pytest

from kd.board import chat
from kd.config.fields import serve as serve_fields


@contextlib.contextmanager
def _server(status, headers=(), body=b''):
  """Yields the URL of a server, and the list of the keys it receives."""
  keys = []

  class Handler(server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
      keys.append(self.headers['Authorization'])
      self.send_response(status)
      for name, value in headers:
        self.send_header(name, value)
      self.end_headers()
      self.wfile.write(body)

    def log_message(self, *args):
      pass

  listener = server.HTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=listener.serve_forever, daemon=True).start()
  try:
    yield f'http://127.0.0.1:{listener.server_port}', keys
  finally:
    listener.shutdown()
    listener.server_close()


@pytest.fixture(name='other')
def _other():
  with _server(200, body=b'{"data": [{"id": "other"}]}') as (url, keys):
    yield url, keys


def test_redirects_are_not_followed(other, monkeypatch):
  monkeypatch.setenv(serve_fields.KEY_VARIABLE, 'secret')
  with _server(302, [('Location', f'{other[0]}/models')]) as (url, keys):
    listed = chat.names(url)
  assert keys == ['Bearer secret'] and not other[1]
  assert '302' in listed['problem']


def test_requests_to_this_machine_bypass_proxies(other, monkeypatch):
  monkeypatch.setenv('http_proxy', other[0])
  monkeypatch.delenv('no_proxy', raising=False)
  monkeypatch.delenv('NO_PROXY', raising=False)
  with _server(200, body=b'{"data": [{"id": "m"}]}') as (url, _):
    assert chat.names(url)['models'] == ['m']
  assert not other[1]
