"""Opens buckets with the clients of Apache Arrow.

They upload in parts and list objects with size and date, unlike TensorStore.
"""

from collections.abc import Iterator
import contextlib
import datetime
import errno
import functools
from typing import Any
from urllib import parse

_ATTEMPTS_S3 = 12  # Of each request, with growing delays of up to 20 s.
_RETRIED_FOR = datetime.timedelta(minutes=2)  # Each request, Cloud Storage.


def opened(url: str, region: str, endpoint: str) -> tuple[Any, str]:
  """Returns a bucket's file system of Arrow, and an object's path in it.

  Args:
    url: URL of the object.
    region: region of S3; '' for that of the bucket.
    endpoint: URL of another server; '' for the provider's.

  Raises:
    OSError: the region of the bucket cannot be determined.
  """
  scheme, _, place = url.partition('://')
  if scheme != 's3':
    return _cloud_storage(endpoint), place
  region = region or _region(place.partition('/')[0], endpoint)
  return _s3(region, endpoint), place


@contextlib.contextmanager
def errors_of(url: str) -> Iterator[None]:
  """Turns errors of the store into an OSError that names the object."""
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
    **_endpoint_options(endpoint),
  )


@functools.cache
def _cloud_storage(endpoint: str) -> Any:
  from pyarrow import fs

  return fs.GcsFileSystem(
    anonymous=bool(endpoint),
    retry_time_limit=_RETRIED_FOR,
    **_endpoint_options(endpoint),
  )


def _endpoint_options(endpoint: str) -> dict[str, str]:
  url = parse.urlsplit(endpoint)
  if not endpoint:
    return {}
  return {'scheme': url.scheme, 'endpoint_override': url.netloc}
