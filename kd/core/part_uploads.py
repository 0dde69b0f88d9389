"""Uploads large files to buckets in parts, which needs little memory.

TensorStore sends an object in one request. Arrow's clients use S3's multipart
uploads and Cloud Storage's resumable uploads: a part that fails is sent again,
and the object is replaced as a whole, after the last part.
"""

from collections.abc import Callable
import ctypes
import errno
import os
from typing import BinaryIO

from kd.core import arrow_stores

# Bytes read at a time. S3's parts of a chunk are sent concurrently.
_CHUNK = 80 << 20
_PART_S3 = 10 << 20  # The size of Arrow's parts.
_MOST_S3 = 10_000 * _PART_S3  # S3 accepts this many parts.


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
  scheme = url.partition('://')[0]
  size = os.fstat(file.fileno()).st_size
  if scheme == 's3' and size > _MOST_S3:
    raise OSError(
      errno.EFBIG,
      f'it has {size:,} bytes, and S3 takes {_MOST_S3:,} in parts',
      url,
    )
  with arrow_stores.errors_of(url):
    store, place = arrow_stores.opened(url, region, endpoint)
    stream = store.open_output_stream(place, buffer_size=0)
  try:
    while data := file.read(_CHUNK):
      check()
      with arrow_stores.errors_of(url):
        stream.write(data)
        stream.flush()  # Otherwise S3's parts would accumulate in memory.
    check()
    with arrow_stores.errors_of(url):
      stream.close()
  except BaseException:
    # Its destructor would complete the object. This keeps it from being called.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
    raise
