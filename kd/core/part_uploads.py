"""Uploads large files to buckets in parts, which needs little memory.

TensorStore sends an object in one request. Arrow's clients use S3's multipart
uploads and Cloud Storage's resumable uploads: a part that fails is sent again,
and the object is replaced as a whole, after the last part.
"""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import datetime
import errno
import functools
import os
from typing import Any, BinaryIO
from urllib import parse

# Bytes read at a time. S3's parts of a chunk are sent concurrently.
_CHUNK = 80 << 20
_PART_S3 = 10 << 20  # The size of Arrow's parts.
_MOST_S3 = 10_000 * _PART_S3  # S3 accepts this many parts.
_ATTEMPTS_S3 = 12  # Of each part, with growing delays of up to 20 s.
_RETRIED_FOR = datetime.timedelta(minutes=2)  # Each part of Cloud Storage.


def write(
  url: str,
  file: BinaryIO,
  region: str,
  endpoint: str,
  check: Callable[[], None],
) -> None:
  """Writes an object from a file.

  If this raises, the object is unchanged, unless the responses to all attempts
  of the last request were lost.

  Args:
    url: URL of the object.
    file: a file opened at its beginning.
    region: region of S3; '' for that of the bucket.
    endpoint: URL of another server; '' for the provider's.
    check: called before each request; stops the upload if it raises.

  Raises:
    OSError: the file cannot be read, or is too large for S3, or the store
      refuses a request or does not respond.
  """
  scheme, _, place = url.partition('://')
  size = os.fstat(file.fileno()).st_size
  if scheme == 's3' and size > _MOST_S3:
    raise OSError(
      errno.EFBIG,
      f'it has {size:,} bytes, and S3 takes {_MOST_S3:,} in parts',
      url,
    )
  with _errors_of(url):
    if scheme == 's3':
      store = _s3(
        region or _region(place.partition('/')[0], endpoint), endpoint
      )
    else:
      store = _cloud_storage(endpoint)
    stream = store.open_output_stream(place, buffer_size=0)
  try:
    while data := file.read(_CHUNK):
      check()
      with _errors_of(url):
        stream.write(data)
        stream.flush()  # Otherwise S3's parts would accumulate in memory.
    check()
    with _errors_of(url):
      stream.close()
  except BaseException:
    # Its destructor would complete the object. This keeps it from being called.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
    raise


@contextlib.contextmanager
def _errors_of(url: str) -> Iterator[None]:
  """Names the object in errors of the store."""
  import pyarrow

  try:
    yield
  except (OSError, pyarrow.ArrowException) as e:
    code = getattr(e, 'errno', None) or errno.EIO
    raise OSError(code, str(e), url) from e


@functools.cache
def _region(bucket: str, endpoint: str) -> str:
  from pyarrow import fs

  return 'us-east-1' if endpoint else fs.resolve_s3_region(bucket)


@functools.cache
def _s3(region: str, endpoint: str) -> Any:
  from pyarrow import fs

  return fs.S3FileSystem(
    region=region,
    retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS_S3),
    **_server(endpoint),
  )


@functools.cache
def _cloud_storage(endpoint: str) -> Any:
  from pyarrow import fs

  return fs.GcsFileSystem(
    anonymous=bool(endpoint),
    retry_time_limit=_RETRIED_FOR,
    **_server(endpoint),
  )


def _server(endpoint: str) -> dict[str, str]:
  url = parse.urlsplit(endpoint)
  if not endpoint:
    return {}
  return {'scheme': url.scheme, 'endpoint_override': url.netloc}
