"""A receiver of alarms for tests."""

from collections.abc import Iterator
import contextlib
from http import server
import threading


@contextlib.contextmanager
def receiver(
  *statuses: int,
) -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
  """Yields a URL and the path, content type and body of each post to it.

  Args:
    *statuses: HTTP status of each reply; the last is repeated.
  """
  posted = []

  class Handler(server.BaseHTTPRequestHandler):
    def do_POST(self):
      body = self.rfile.read(int(self.headers['Content-Length']))
      posted.append((self.path, self.headers['Content-Type'], body))
      self.send_response(statuses[min(len(posted), len(statuses)) - 1])
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
