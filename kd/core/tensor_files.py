"""Writes safetensors files."""

from collections.abc import Mapping
import os

import numpy as np
import safetensors.numpy


def save(
  path: str,
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes a safetensors file with the permissions of the umask.

  The library itself makes its files readable only by their owner.

  Args:
    path: the file; replaced if it exists.
    arrays: contiguous arrays by name.
    metadata: strings for the file's header.
  """
  with open(path, 'wb') as f:
    mode = os.stat(f.fileno()).st_mode
  safetensors.numpy.save_file(dict(arrays), path, metadata=metadata)
  os.chmod(path, mode)
