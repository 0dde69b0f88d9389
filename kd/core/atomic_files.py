"""Writes files aside and renames them: readers never see half of one.

In a bucket an object appears when its upload is whole.
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
  """Writes JSON aside, then renames, so that readers never see half of it.

  Raises:
    ValueError: a number is not finite: JSON has no such numbers.
  """
  text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
  write_text(path, text + '\n')


def write_text(path: str, text: str) -> None:
  """Writes text aside, then renames."""
  write_bytes(path, text.encode('utf-8'))


def write_picture(path: str, figure: Any, dpi: int) -> None:
  """Writes a matplotlib figure as PNG aside, then renames."""
  data = io.BytesIO()
  figure.savefig(data, format='png', dpi=dpi)
  write_bytes(path, data.getvalue())


def sync(path: str) -> None:
  """Makes a file's bytes, or a folder's names, outlive a power cut."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_all(folder: str, files: Mapping[str, bytes]) -> None:
  """Writes files by name into a folder, each aside, then renames it."""
  for name, data in files.items():
    write_bytes(os.path.join(folder, name), data)


def write_bytes(path: str, value: bytes) -> None:
  """Writes bytes aside, then renames.

  Aside is one name, so that what a killed process left is written over; only
  one process at a time may write a path.
  """
  if objects.is_url(path):
    objects.write(path, value)
    return
  aside = path + layout.ASIDE
  with open(aside, 'wb') as f:
    f.write(value)
    f.flush()
    os.fsync(f.fileno())
  os.replace(aside, path)
  buckets.upload_file(path)


@contextlib.contextmanager
def aside(path: str) -> Iterator[str]:
  """Yields a path to write to; what it holds afterwards replaces `path`.

  Nothing is left where the block raises; see write_bytes.
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

  Readers find the old files or the new ones.
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
