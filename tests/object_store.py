"""A local object store with injected faults, for tests of buckets.

It serves the parts of Cloud Storage's JSON API and of S3's API that TensorStore
and Arrow's clients call. Its state is in the memory of the process that starts
it, so it outlives killed clients.
"""

from collections.abc import Sequence
import contextlib
import datetime
import hashlib
from http import server
import json
import os
import re
import threading
import time
from urllib import parse
from xml.sax import saxutils

from kd.core import buckets
from kd.core import objects
from tests import object_uploads

_PAGE = 50  # Objects per page of a listing: few, so that paging is tested.


TOO_MANY, UNAVAILABLE = '429', '503'
TORN_UPLOAD = 'torn'  # Half of a body is read, then the connection is closed.
LOST_ANSWER = 'lost'  # The request is done, but the connection is closed.
FAULTS = (TOO_MANY, UNAVAILABLE, TORN_UPLOAD, LOST_ANSWER)


class Store:
  """State of the store: objects by (bucket, name), and a record of requests."""

  def __init__(self, *buckets: str):
    self.buckets = set(buckets)
    self.objects: dict[tuple[str, str], tuple[int, bytes]] = {}
    # Time of each object's last write.
    self.modified: dict[tuple[str, str], datetime.datetime] = {}
    # Names of objects in the order in which they were stored and removed.
    self.writes: list[str] = []
    self.removals: list[str] = []
    self.most_read = 0  # Largest number of bytes in one response.
    self.forbidden = ''  # Requests with this in their path are refused.
    self.uploads: dict[str, object_uploads.Upload] = {}  # Uploads in parts.
    # Called before an upload or a part is stored (False) and after it (True).
    # If it raises PermissionError, the response is 403.
    self.watch = lambda stored: None
    self._lock, self._generation = threading.Lock(), time.time_ns()
    self.inject(())

  def inject(self, faults: Sequence[str], every: int = 5) -> None:
    """Injects a fault into every `every`-th of the following requests."""
    self.faults_left, self._every = list(faults), every
    self._requests = 0

  def names(self, bucket: str, prefix: str = '') -> list[str]:
    """Returns the sorted names of a bucket's objects with a prefix."""
    with self._lock:
      found = [n for b, n in self.objects if b == bucket]
    return sorted(n for n in found if n.startswith(prefix))

  def read(self, bucket: str, name: str) -> bytes:
    """Returns the bytes of an object."""
    return self.objects[bucket, name][1]

  def copy_to(self, bucket: str, prefix: str, folder: str) -> None:
    """Writes the objects below a prefix as files into a folder."""
    for name in self.names(bucket, f'{prefix}/'):
      path = os.path.join(folder, name[len(prefix) + 1 :])
      os.makedirs(os.path.dirname(path), exist_ok=True)
      if not path.endswith('/'):
        with open(path, 'wb') as f:
          f.write(self.read(bucket, name))

  def fault(self, has_body: bool) -> str:
    """Returns the fault of this request, or ''."""
    with self._lock:
      self._requests += 1
      if not self.faults_left or self._requests < self._every:
        return ''
      if self.faults_left[0] == TORN_UPLOAD and not has_body:
        return ''  # Wait for a request with a body.
      self._requests = 0
      return self.faults_left.pop(0)

  def put(self, bucket, name, data, matches):
    """Stores an object if `matches(generation)`; returns its new generation."""
    self.watch(False)
    new = self._put(bucket, name, data, matches)
    self.watch(True)
    return new

  def _put(self, bucket, name, data, matches):
    with self._lock:
      old = self.objects.get((bucket, name), (0, b''))
      if not matches(old[0]):
        return None
      self._generation += 1
      self.objects[bucket, name] = self._generation, data
      self.modified[bucket, name] = datetime.datetime.now(datetime.UTC)
      self.writes.append(name)
      return self._generation

  def remove(self, bucket, name, matches):
    """Removes an object; returns an HTTP status."""
    with self._lock:
      old = self.objects.get((bucket, name))
      if old is None:
        return 404
      if not matches(old[0]):
        return 412
      del self.objects[bucket, name]
      self.removals.append(name)
      return 204


class _Handler(object_uploads.Handler, server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  store: Store

  def log_message(self, *unused):
    del unused

  def setup(self):
    super().setup()
    self.close_connection = False

  def _answer(self, status, body=b'', **headers):
    if self._lost:
      return self._hang_up()
    if status >= 400 and not body:
      body = json.dumps({'error': {'code': status}}).encode()
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name.replace('_', '-'), str(value))
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(body)
    return None

  def _hang_up(self):
    self.close_connection = True
    with contextlib.suppress(OSError):
      self.connection.shutdown(2)

  def _handle(self):
    self._lost = False
    has_body = self.headers.get('Content-Length', '0') != '0'
    has_body = has_body or 'Transfer-Encoding' in self.headers
    fault = self.store.fault(has_body)
    body = self.read_body(fault == TORN_UPLOAD)
    if body is None:  # Or the client was killed: store nothing.
      return self._hang_up()
    if fault.isdigit():
      return self._answer(int(fault))
    self._lost = fault == LOST_ANSWER
    url = parse.urlsplit(self.path)
    query = dict(parse.parse_qsl(url.query, keep_blank_values=True))
    try:
      return self._serve(url, query, body)
    except PermissionError:
      return self._answer(403)

  def _serve(self, url, query, body):
    if self.store.forbidden and self.store.forbidden in parse.unquote(url.path):
      raise PermissionError
    if url.path.startswith(('/storage/v1/b/', '/upload/storage/v1/b/')):
      return self._gcs(url.path, query, body)
    return self._s3(url.path, query, body)

  do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _handle

  # Cloud Storage.

  def _gcs(self, path, query, body):
    match = re.fullmatch(r'(/upload)?/storage/v1/b/([^/]*)/o(?:/(.*))?', path)
    if not match or match[2] not in self.store.buckets:
      return self._answer(404)
    bucket, name = match[2], parse.unquote(match[3] or '')

    def matches(generation):
      wanted = query.get('ifGenerationMatch')
      return wanted is None or int(wanted) == generation

    if query.get('uploadType') == 'resumable':
      return self.gcs_upload(bucket, query, body)
    if self.command == 'POST':
      new = self.store.put(bucket, query['name'], body, matches)
      if new is None:
        return self._answer(412)
      return self._json({'name': query['name'], 'generation': str(new)})
    if self.command == 'DELETE':
      return self._answer(self.store.remove(bucket, name, matches))
    if not name:
      return self._gcs_list(bucket, query)
    generation, data = self.store.objects.get((bucket, name), (0, b''))
    if not generation:
      return self._answer(404)
    if not matches(generation):
      return self._answer(412)
    if query.get('alt') != 'media':
      found = {'name': name, 'generation': str(generation), 'size': len(data)}
      return self._json(found)
    if query.get('ifGenerationNotMatch') == str(generation):
      return self._answer(304)
    return self._content(data, x_goog_generation=generation)

  def _content(self, data, **headers):
    match = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range') or '')
    if not match:
      return self._read(200, data, **headers)
    size = len(data)
    if not match[1]:
      begin, end = max(size - int(match[2]), 0), size
    else:
      begin, end = int(match[1]), min(int(match[2] or size) + 1, size)
    if begin >= size:
      return self._answer(416, **headers)
    headers['Content_Range'] = f'bytes {begin}-{end - 1}/{size}'
    return self._read(206, data[begin:end], **headers)

  def _read(self, status, data, **headers):
    self.store.most_read = max(self.store.most_read, len(data))
    return self._answer(status, data, **headers)

  def _page(self, bucket, query, begin):
    """Returns a page of names and the first name of the next page, or None."""
    names = self.store.names(bucket, query.get('prefix', ''))
    names = [
      n
      for n in names
      if n >= begin
      and n >= query.get('startOffset', '')
      and not ('endOffset' in query and n >= query['endOffset'])
    ]
    return names[:_PAGE], names[_PAGE] if len(names) > _PAGE else None

  def _gcs_list(self, bucket, query):
    names, following = self._page(bucket, query, query.get('pageToken', ''))
    more = {'nextPageToken': following} if following else {}
    items = [self._listed(bucket, name) for name in names]
    self._json({'items': items, **more})

  def _listed(self, bucket, name):
    # Another request may have just removed the object.
    _, data = self.store.objects.get((bucket, name), (0, b''))
    date = self.store.modified[bucket, name].isoformat(timespec='milliseconds')
    return {
      'name': name,
      'bucket': bucket,
      'size': str(len(data)),
      'timeCreated': date.replace('+00:00', 'Z'),
    }

  # S3.

  def _s3(self, path, query, body):
    bucket, _, name = parse.unquote(path[1:]).partition('/')
    if bucket not in self.store.buckets:
      return self._answer(404, b'<Error><Code>NoSuchBucket</Code></Error>')

    def matches(generation):
      if self.headers.get('If-None-Match') == '*':
        return not generation
      wanted = self.headers.get('If-Match')
      return wanted is None or wanted.strip('"') == _etag(generation)

    if query.keys() & {'uploads', 'uploadId'}:
      return self.s3_upload(bucket, name, query, body)
    if self.command == 'PUT':
      new = self.store.put(bucket, name, body, matches)
      if new is None:
        return self._answer(412)
      return self._answer(200, ETag=f'"{_etag(new)}"')
    if self.command == 'DELETE':
      status = self.store.remove(bucket, name, matches)
      return self._answer(204 if status == 404 else status)
    if not name:
      return self._s3_list(bucket, query)
    generation, data = self.store.objects.get((bucket, name), (0, b''))
    if not generation:
      return self._answer(404, b'<Error><Code>NoSuchKey</Code></Error>')
    if not matches(generation):
      return self._answer(412)
    etag = f'"{_etag(generation)}"'
    if self.headers.get('If-None-Match') == etag:
      return self._answer(304, ETag=etag)
    return self._content(data, ETag=etag)

  def _s3_list(self, bucket, query):
    begin = query.get('continuation-token', '')
    names, following = self._page(bucket, query, begin)
    contents = ''.join(
      f'<Contents><Key>{saxutils.escape(x["name"])}</Key><Size>{x["size"]}'
      f'</Size><LastModified>{x["timeCreated"]}</LastModified></Contents>'
      for x in (self._listed(bucket, name) for name in names)
    )
    more = following is not None
    token = saxutils.escape(following or '')
    self._answer(
      200,
      (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f'<KeyCount>{len(names)}</KeyCount>'
        f'<IsTruncated>{str(more).lower()}</IsTruncated>{contents}'
        f'<NextContinuationToken>{token}</NextContinuationToken>'
        '</ListBucketResult>'
      ).encode(),
      Content_Type='application/xml',
      x_amz_bucket_region='us-east-1',
    )


def _etag(generation):
  return hashlib.md5(str(generation).encode()).hexdigest()


@contextlib.contextmanager
def serve(*buckets: str):
  """Serves a store; yields the store and its clients' environment."""
  store = Store(*buckets)
  handler = type('Handler', (_Handler,), {'store': store})
  http = server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  http.daemon_threads = True
  # Ignore connections reset by killed clients.
  http.handle_error = lambda request, address: None
  thread = threading.Thread(target=http.serve_forever, daemon=True)
  thread.start()
  url = f'http://127.0.0.1:{http.server_address[1]}'
  try:
    yield (
      store,
      {
        'TENSORSTORE_GCS_HTTP_URL': url,
        'AWS_ENDPOINT_URL': url,
        'AWS_ACCESS_KEY_ID': 'test',
        'AWS_SECRET_ACCESS_KEY': 'test',
        'AWS_REGION': 'us-east-1',
      },
    )
  finally:
    http.shutdown()
    http.server_close()


@contextlib.contextmanager
def serve_here(monkeypatch):
  """Serves a store with the bucket `bucket` to this process; yields it."""
  with serve('bucket') as (store, environment):
    for name, value in environment.items():
      monkeypatch.setenv(name, value)
    monkeypatch.setattr(buckets, '_copies', [])
    objects._store.cache_clear()
    yield store
    objects._store.cache_clear()
