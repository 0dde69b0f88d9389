"""Makes Orbax write to buckets with the libraries that are installed."""

import functools
import os

from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from kd.core import objects


@functools.cache
def prepare() -> None:
  """Prepares Orbax, once a process.

  Orbax knows gs:// alone: s3:// is to be handled alike. And to remove a folder
  it asks google-cloud-storage whether the bucket keeps folders apart from
  objects; ours are names of objects in every bucket.
  """
  gcs_utils._GCS_PATH_PREFIX = ('gs://', 's3://')
  gcs_utils.get_kvstore_for_gcs = lambda path: objects.spec(str(path))
  gcs_utils.is_hierarchical_namespace_enabled = lambda path: False
  tensorstore_utils._use_gcs_driver = objects.is_url
  tensorstore_utils._normalize_path = _normalized


def _normalized(path):
  scheme, separator, rest = path.partition('://')
  if not separator:
    return os.path.normpath(path)
  return f'{scheme}://{os.path.normpath(rest)}'
