"""Tests that alarms arrive at a webhook, or that an error is raised."""

import contextlib
from http import server
import json
import threading

import pytest

from kd.monitoring import webhook


@contextlib.contextmanager
def _receiver(status):
  """Yields a URL and the list of what is posted to it."""
  posted = []

  class Handler(server.BaseHTTPRequestHandler):
    def do_POST(self):
      body = self.rfile.read(int(self.headers['Content-Length']))
      posted.append((self.path, self.headers['Content-Type'], body))
      self.send_response(status)
      self.end_headers()

    def log_message(self, *unused):
      del unused

  with server.HTTPServer(('127.0.0.1', 0), Handler) as s:
    thread = threading.Thread(target=s.serve_forever)
    thread.start()
    try:
      yield f'http://127.0.0.1:{s.server_port}/hook?token=secret', posted
    finally:
      s.shutdown()
      thread.join()


def test_alarms_are_delivered_or_raise_an_error():
  with _receiver(204) as (url, posted):
    webhook.deliver(url, {'text': 'kd: é'})
  ((path, kind, body),) = posted
  assert (path, kind) == ('/hook?token=secret', 'application/json')
  assert json.loads(body) == {'text': 'kd: é'}
  with pytest.raises(OSError):  # Nobody listens there now.
    webhook.deliver(url, {'text': ''})
  with _receiver(500) as (url, _), pytest.raises(OSError) as e:
    webhook.deliver(url, {'text': ''})
  assert str(e.value) == 'status 500'
  for wrong in ('http://secret:80x/', 'http://[secret'):
    with pytest.raises(OSError, match='not a URL') as e:
      webhook.deliver(wrong, {'text': ''})
    assert 'secret' not in str(e.value)
