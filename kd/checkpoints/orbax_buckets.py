"""Makes Orbax write to buckets with the installed libraries."""

import functools
import os

from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from kd.core import objects


@functools.cache
def prepare() -> None:
  """Patches Orbax, once per process.

  Orbax supports only gs://; this makes it handle s3:// in the same way. To
  remove a folder, it would use google-cloud-storage to check whether the bucket
  has a hierarchical namespace. We always treat folders as prefixes of object
  names.
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
