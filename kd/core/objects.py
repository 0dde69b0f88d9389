"""Reads and writes objects of buckets: gs://BUCKET/NAME and s3://BUCKET/NAME.

TensorStore is the client: it is a dependency of Orbax, finds the credentials of
the Google Cloud and AWS tools, retries temporary failures (429, 5xx, lost
connections), and supports conditional writes. Arrow's clients write large files
(part_uploads), since TensorStore sends an object in one request, and list sizes
and dates (arrow_stores).
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import errno
import functools
import os
from typing import Any, BinaryIO

from kd.core import arrow_stores
from kd.core import part_uploads

_SCHEMES = ('gs://', 's3://')
# The delays double, for about two minutes in total; then the run ends.
_RETRIES = {'max_retries': 12, 'initial_delay': '0.25s', 'max_delay': '16s'}
_AT_A_TIME = 16  # Number of concurrent requests.
_PART = 1 << 25  # Bytes; larger objects are read and written in parts.
_PAST_SLASH = chr(ord('/') + 1)
# The variable with which TensorStore uses another server.
_CLOUD_STORAGE = 'TENSORSTORE_GCS_HTTP_URL'


@dataclasses.dataclass(frozen=True)
class Object:
  """The result of reading an object.

  Attributes:
    data: bytes of the object; None if it is missing or large.
    generation: identifier of the write that produced it; a missing object has
      one too.
    is_large: whether the object must be read with read_large.
  """

  data: bytes | None
  generation: bytes
  is_large: bool = False


def is_url(path: str) -> bool:
  """Returns whether a path is a bucket or is in a bucket."""
  return str(path).startswith(_SCHEMES)


def read(url: str) -> Object:
  """Reads an object.

  Raises:
    OSError: the store refuses the request or does not respond.
  """
  store, key = _place(url)
  answer = _result(store.read(key), url)
  return Object(
    answer.value if answer.state == 'value' else None, answer.stamp.generation
  )


def read_changed(
  generations: dict[str, bytes | None],
) -> Iterator[tuple[str, Object | None]]:
  """Reads objects that changed, concurrently, without the data of large ones.

  Args:
    generations: the caller's generation of each object, or None, by URL.

  Yields:
    URL and object; None for an object that still has the caller's generation.

  Raises:
    OSError: the store refuses the request or does not respond.
  """
  for urls in _batches(generations):
    # Requests one byte past the first part, which only large objects have.
    past = dict.fromkeys(urls, slice(_PART, _PART + 1))
    read = dict(_read_all(past, generations))
    small = {url: slice(None) for url in urls if read[url] is None}
    read.update(_read_all(small, generations))
    for url, answer in read.items():
      if answer.state == 'unspecified':
        yield url, None
      elif answer.state == 'value' and url not in small:
        yield url, Object(None, answer.stamp.generation, is_large=True)
      else:
        data = answer.value if answer.state == 'value' else None
        yield url, Object(data, answer.stamp.generation)


def _read_all(ranges, generations):
  """Yields URL and result of each range; None if the object ends before it."""
  futures = {}
  for url, wanted in ranges.items():
    store, key = _place(url)
    futures[url] = store.read(
      key, if_not_equal=generations[url], byte_range=wanted
    )
  for url, future in futures.items():
    try:
      yield url, _result(future, url)
    except _PastEndError:
      yield url, None


def read_large(url: str, file: BinaryIO) -> bytes:
  """Writes an object that is larger than a part to a file, part by part.

  Returns:
    The object's generation.

  Raises:
    OSError: the store refuses the request or does not respond, or the object
      was replaced during the read.
  """
  store, key = _place(url)
  begin, generations, is_last = 0, set(), False
  while not is_last:
    try:
      wanted = slice(begin, begin + _PART)
      answer = _result(store.read(key, byte_range=wanted), url)
      data = answer.value
    except _PastEndError:
      # Includes the byte before, since the object may end here.
      wanted = slice(begin - 1, None)
      answer = _result(store.read(key, byte_range=wanted), url)
      data, is_last = answer.value[1:], True
    generations.add(answer.stamp.generation)
    if len(generations) > 1:
      raise OSError(errno.EIO, 'the object was replaced during a read', url)
    file.write(data)
    begin += len(data)
  return generations.pop()


def write(
  url: str, data: bytes | None, if_generation: bytes | None = None
) -> bytes | None:
  """Writes or removes an object atomically.

  Args:
    url: URL of the object.
    data: bytes to write; None to remove the object.
    if_generation: write only if the object still has this generation.

  Returns:
    The new generation; None if the object had a different one. A write whose
    response was lost is repeated, and then sees the generation that it created.

  Raises:
    OSError: the store refuses the request or does not respond.
  """
  store, key = _place(url)
  stamp = _result(store.write(key, data, if_equal=if_generation), url)
  return stamp.generation or None


def write_file(
  url: str, file: BinaryIO, check: Callable[[], None] = lambda: None
) -> bytes:
  """Writes an object from a file atomically; a large one in parts.

  Args:
    url: URL of the object.
    file: a file opened at its beginning.
    check: called before each request; stops the upload if it raises.

  Returns:
    The new generation.

  Raises:
    OSError: the store refuses the request or does not respond, or the file is
      too large for the store.
  """
  store, key = _place(url)
  if os.fstat(file.fileno()).st_size <= _PART:
    check()
    return _result(store.write(key, file.read()), url).generation
  part_uploads.write(url, file, *_server(url), check)
  # Reads one byte, since the response has no generation in TensorStore's form.
  future = store.read(key, byte_range=slice(0, 1))
  return _result(future, url).stamp.generation


def remove(urls: Iterable[str]) -> None:
  """Removes objects; missing ones are ignored.

  Raises:
    OSError: the store refuses the request or does not respond.
  """
  for batch in _batches(urls):
    futures = []
    for url in batch:
      store, key = _place(url)
      futures.append(store.write(key, None))
    for url, future in zip(batch, futures, strict=True):
      _result(future, url)


def names(folder: str) -> list[str]:
  """Returns the names of all objects below a folder, relative to it, sorted.

  Args:
    folder: URL without a trailing slash.

  Raises:
    OSError: the store refuses the request or does not respond.
  """
  import tensorstore as ts

  store, key = _place(folder)
  key = key.rstrip('/')
  if key:
    begin, end = f'{key}/', f'{key}{_PAST_SLASH}'
    wanted = ts.KvStore.KeyRange(begin, end)
  else:
    begin, wanted = '', ts.KvStore.KeyRange()
  keys = _result(store.list(wanted), folder)
  if not keys:
    # TensorStore returns an empty list if Cloud Storage refuses the listing. A
    # user who may not list may not read missing objects either, so this raises.
    read(f'{folder}/')
    keys = _result(store.list(wanted), folder)
  return sorted(key.decode()[len(begin) :] for key in keys)


@dataclasses.dataclass(frozen=True)
class Listed:
  """An object of a listing.

  Attributes:
    size: size in bytes.
    modified: time of the write that produced it, in seconds since 1970.
  """

  size: int
  modified: float


def listed(folder: str) -> dict[str, Listed]:
  """Returns all objects below a folder by their names relative to it.

  Args:
    folder: URL without a trailing slash.

  Raises:
    OSError: the store refuses the request or does not respond.
  """
  from pyarrow import fs

  with arrow_stores.errors_of(folder):
    store, place = arrow_stores.opened(folder, *_server(folder))
    infos = store.get_file_info(fs.FileSelector(place, recursive=True))
  return {
    info.path[len(place) + 1 :]: Listed(info.size, info.mtime_ns / 1e9)
    for info in infos
    if info.is_file
  }


def remove_folder(folder: str) -> None:
  """Removes all objects below a folder.

  Raises:
    OSError: the store refuses the request or does not respond.
  """
  remove(f'{folder}/{name}' for name in names(folder))


def _place(url):
  """Returns the store of a URL's bucket, and the object's name in it."""
  scheme, _, rest = url.partition('://')
  bucket, _, key = rest.partition('/')
  return _store(scheme, bucket), key


@functools.cache
def _store(scheme, bucket):
  import tensorstore as ts

  url = f'{scheme}://{bucket}'
  context = ts.Context(
    {'gcs_request_retries': _RETRIES, 's3_request_retries': _RETRIES}
  )
  return _result(ts.KvStore.open(spec(url), context=context), url)


def spec(url: str) -> dict[str, Any]:
  """Returns TensorStore's specification of a folder in a bucket."""
  scheme, _, rest = url.partition('://')
  bucket, _, key = rest.partition('/')
  if scheme == 'gs':
    return {'driver': 'gcs', 'bucket': bucket, 'path': key}
  result = {'driver': 's3', 'bucket': bucket, 'path': key}
  # Standard AWS variables that TensorStore does not read.
  endpoint = os.environ.get('AWS_ENDPOINT_URL')
  region = os.environ.get('AWS_REGION') or os.environ.get('AWS_DEFAULT_REGION')
  if endpoint:
    result['endpoint'] = endpoint
    region = region or 'us-east-1'
  return {**result, 'aws_region': region} if region else result


def _server(url: str) -> tuple[str, str]:
  """Returns the region and the server of a bucket; '' for the defaults."""
  server = spec(url)
  endpoint = server.get('endpoint', os.environ.get(_CLOUD_STORAGE, ''))
  return server.get('aws_region', ''), endpoint


class _PastEndError(OSError):
  """The requested range of bytes is past the end of the object."""


def _result(future, url):
  try:
    return future.result()
  except (ValueError, RuntimeError) as e:
    kind = str(e).partition(':')[0]
    if kind == 'OUT_OF_RANGE':
      raise _PastEndError(errno.EINVAL, str(e), url) from e
    code = {
      'PERMISSION_DENIED': errno.EACCES,
      'UNAUTHENTICATED': errno.EACCES,
      'NOT_FOUND': errno.ENOENT,
    }.get(kind, errno.EIO)
    raise OSError(code, str(e), url) from e


def _batches(values):
  values = list(values)
  for begin in range(0, len(values), _AT_A_TIME):
    yield values[begin : begin + _AT_A_TIME]
