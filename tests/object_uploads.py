"""Uploads in parts of the local object store: S3's and Cloud Storage's."""

import dataclasses
import hashlib
import json
import re
from xml.sax import saxutils

_LEAST_PART = 5 << 20  # S3 refuses smaller parts, except for the last one.


@dataclasses.dataclass
class Upload:
  """An upload in progress.

  Attributes:
    parts: bytes by number; Cloud Storage's are all in part 0.
    done: generation of the object; 0 before the last request.
  """

  parts: dict[int, bytes] = dataclasses.field(default_factory=dict)
  done: int = 0


class Handler:
  """Requests of uploads; part of object_store's handler."""

  def read_body(self, is_torn: bool) -> bytes | None:
    """Reads the body of a request; None if the client is gone, or `is_torn`."""
    if self.headers.get('Transfer-Encoding') != 'chunked':
      length = int(self.headers.get('Content-Length') or 0)
      body = self.rfile.read(length // 2 if is_torn else length)
      return body if len(body) == length else None
    chunks = self._chunks(self.rfile)
    if is_torn:
      next(chunks)
      return None
    body = b''.join(chunks)
    if 'aws-chunked' not in self.headers.get('Content-Encoding', ''):
      return body
    return _unframed(body)

  def _chunks(self, file):
    size = True
    while size:
      size = int(file.readline(), 16)
      yield file.read(size)
      file.readline()

  def s3_upload(self, bucket, name, query, body):
    """Serves S3's multipart uploads."""
    uploads = self.store.uploads
    if 'uploads' in query:
      key = str(len(uploads))
      uploads[key] = Upload()
      return self._xml(
        'InitiateMultipartUploadResult', Bucket=bucket, Key=name, UploadId=key
      )
    upload = uploads.get(query['uploadId'])
    if upload is None:
      return self._answer(404, b'<Error><Code>NoSuchUpload</Code></Error>')
    if self.command == 'DELETE':
      del uploads[query['uploadId']]
      return self._answer(204)
    if self.command == 'PUT':
      self._store_part(upload, int(query['partNumber']), body)
      return self._answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
    if not upload.done:
      named = re.findall(r'<Part>(.*?)</Part>', body.decode(), re.S)
      parts = [upload.parts[_value('PartNumber', text)] for text in named]
      assert [_value('ETag', text) for text in named] == [
        hashlib.md5(part).hexdigest() for part in parts
      ]
      if any(len(part) < _LEAST_PART for part in parts[:-1]):
        return self._answer(400, b'<Error><Code>EntityTooSmall</Code></Error>')
      self._complete(upload, bucket, name, b''.join(parts))
    return self._xml('CompleteMultipartUploadResult', Bucket=bucket, Key=name)

  def gcs_upload(self, bucket, query, body):
    """Serves Cloud Storage's resumable uploads."""
    uploads = self.store.uploads
    if self.command == 'POST':
      key = str(len(uploads))
      uploads[key] = Upload({0: b''})
      place = f'http://{self.headers["Host"]}{self.path}&upload_id={key}'
      return self._answer(200, Location=place)
    upload = uploads[query['upload_id']]
    span, total = re.fullmatch(
      r'bytes (.*)/(.*)', self.headers['Content-Range']
    ).groups()
    received = upload.parts[0]
    if not upload.done and span != '*':
      begin = int(span.partition('-')[0])
      if begin <= len(received):  # Otherwise the client asks for the size.
        self._store_part(upload, 0, received[:begin] + body)
    received = upload.parts[0]
    if not upload.done and total == str(len(received)):
      self._complete(upload, bucket, query['name'], received)
    if upload.done:
      return self._json(
        {
          'bucket': bucket,
          'name': query['name'],
          'generation': str(upload.done),
          'size': str(len(received)),
        }
      )
    sizes = {'Range': f'bytes=0-{len(received) - 1}'} if received else {}
    return self._answer(308, **sizes)

  def _store_part(self, upload, number, body):
    self.store.watch(False)
    upload.parts[number] = body
    self.store.watch(True)

  def _complete(self, upload, bucket, name, data):
    upload.done = self.store.put(bucket, name, data, lambda _: True)

  def _xml(self, kind, **values):
    fields = ''.join(
      f'<{key}>{saxutils.escape(value)}</{key}>'
      for key, value in values.items()
    )
    text = f'<?xml version="1.0" encoding="UTF-8"?><{kind}>{fields}</{kind}>'
    self._answer(200, text.encode(), Content_Type='application/xml')

  def _json(self, value):
    self._answer(
      200, json.dumps(value).encode(), Content_Type='application/json'
    )


def _value(name, text):
  value = re.search(f'<{name}>(.*?)</{name}>', text)[1]
  return (
    int(value) if value.isdigit() else value.replace('&quot;', '').strip('"')
  )


def _unframed(body):
  """Returns the data of a body in AWS' own chunks, with its checksum last."""
  data, begin, size = [], 0, True
  while size:
    end = body.index(b'\r\n', begin)
    size = int(body[begin:end].partition(b';')[0], 16)
    begin = end + 2
    data.append(body[begin : begin + size])
    begin += size + 2
  return b''.join(data)
