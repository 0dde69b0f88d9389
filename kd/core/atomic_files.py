"""Writes files atomically: to a temporary name that is renamed at the end.

In a bucket, an object appears once its upload is complete.
"""

from collections.abc import Iterator, Mapping
import contextlib
import io
import json
import os
import shutil
import tempfile
from typing import Any

from kd.core import buckets
from kd.core import layout
from kd.core import objects


def write_json(path: str, value: Any) -> None:
  """Writes JSON atomically.

  Raises:
    ValueError: a number is not finite, which JSON cannot express.
  """
  text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
  write_text(path, text + '\n')


def write_text(path: str, text: str) -> None:
  """Writes text atomically."""
  write_bytes(path, text.encode('utf-8'))


def write_picture(path: str, figure: Any, dpi: int) -> None:
  """Writes a matplotlib figure as PNG atomically."""
  data = io.BytesIO()
  figure.savefig(data, format='png', dpi=dpi)
  write_bytes(path, data.getvalue())


def sync(path: str) -> None:
  """Syncs a file's bytes, or a folder's names, to disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_all(folder: str, files: Mapping[str, bytes]) -> None:
  """Writes files by name into a folder, each atomically."""
  for name, data in files.items():
    write_bytes(os.path.join(folder, name), data)


def write_bytes(path: str, value: bytes) -> None:
  """Writes bytes atomically.

  The temporary name is fixed, so leftovers of a killed process are overwritten.
  Only one process at a time may write a path.
  """
  if objects.is_url(path):
    objects.write(path, value)
    return
  with aside(path) as new, open(new, 'wb') as f:
    f.write(value)


@contextlib.contextmanager
def aside(path: str) -> Iterator[str]:
  """Yields a temporary path whose file replaces `path` at the end.

  The file is removed if the block raises; see write_bytes.
  """
  new = path + layout.ASIDE
  try:
    yield new
    sync(new)
    os.replace(new, path)
    buckets.upload_file(path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(new)
    raise


@contextlib.contextmanager
def replaced_folder(folder: str) -> Iterator[str]:
  """Yields a new folder that replaces `folder` once it is filled.

  Readers see either the old files or the new ones.
  """
  folder = os.path.abspath(folder)
  parent, name = os.path.split(folder)
  os.makedirs(parent, exist_ok=True)
  work = tempfile.mkdtemp(prefix=f'.{name}.', dir=parent)
  try:
    new = os.path.join(work, 'new')
    os.mkdir(new)
    yield new
    if os.path.exists(folder):
      os.rename(folder, os.path.join(work, 'old'))
    os.rename(new, folder)
    buckets.upload_folder(folder)
  finally:
    shutil.rmtree(work)
