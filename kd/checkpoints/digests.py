"""Writes and verifies the digests of a checkpoint's files."""

from collections.abc import Sequence
from concurrent import futures
import json
import os
import zlib

from etils import epath

from kd.core import layout
from kd.core import objects

FILE = 'digests.json'
# Files of Orbax without a digest: the quality metric, which may be measured
# after the save, and the times and commit marker, written after the digests.
FIGURE = os.path.join('metrics', 'metrics')
METRIC = 'quality'  # Name of the metric in that file.
TIMES = '_CHECKPOINT_METADATA'
_WITHOUT_DIGEST = ('metrics', TIMES, layout.COMMIT, FILE)
_CHUNK = 1 << 22  # bytes
_THREADS = 4


def write(folder: str, step: int) -> None:
  """Writes a checkpoint's step, and the size and CRC-32 of each file.

  All files of the checkpoint are synced to disk when this returns.

  Args:
    folder: a complete checkpoint that does not have its final name yet.
    step: step of the checkpoint.
  """
  files = dict(_each(folder, _files(folder), keep=True))
  path = os.path.join(folder, FILE)
  text = json.dumps({'step': step, 'files': files}, indent=0, sort_keys=True)
  if objects.is_url(path):
    objects.write(path, text.encode())
    return
  with open(path, 'w', encoding='utf-8') as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())


def figure(folder: str) -> float | None:
  """Returns a checkpoint's quality metric; None without one.

  Args:
    folder: the checkpoint.

  Raises:
    ValueError: the file is damaged.
    OSError: the bucket cannot be read.
  """
  try:
    text = epath.Path(folder, FIGURE).read_text()
    return float(json.loads(text)[METRIC])
  except FileNotFoundError:
    return None
  except OSError as e:  # A folder in its place, for example.
    if objects.is_url(folder):
      raise
    raise ValueError(str(e)) from e
  except (KeyError, TypeError, OverflowError, RecursionError) as e:
    raise ValueError(f'it does not contain a number {METRIC!r}') from e


def problem(folder: str, items: Sequence[str] = ()) -> str:
  """Returns a description of the first damage to a checkpoint, or ''.

  Args:
    folder: the checkpoint, named by its step.
    items: subfolders to check; (): all.

  Raises:
    OSError: the bucket cannot be read.
  """
  try:
    written = json.loads(epath.Path(folder, FILE).read_text())
    if str(written['step']) != os.path.basename(folder):
      return f'{FILE} belongs to step {written["step"]}'
    files = written['files'].items()
    counted = {k: tuple(v) for k, v in files if _counts(k, items)}
    here = {name for name in _files(folder) if _counts(name, items)}
    for name in sorted(counted.keys() | here):
      if name not in here:
        return f'{name} is missing'
      if name not in counted:
        return f'{name} was added'
      if not objects.is_url(folder):  # Cheaper than reading the file.
        size = os.path.getsize(os.path.join(folder, name))
        if size != counted[name][0]:
          return f'{name} has {size} bytes, expected {counted[name][0]}'
    for name, found in _each(folder, sorted(here), keep=False):
      if found != counted[name]:
        return f'{name} does not match its digest'
  except FileNotFoundError:
    return f'{FILE} is missing'
  except (
    *(ValueError, RecursionError),  # Not JSON.
    *(AttributeError, TypeError, KeyError, IndexError),
  ):
    return f'{FILE} cannot be read'
  except OSError as e:
    if objects.is_url(folder):  # A fault of the store, not the checkpoint.
      raise
    return f'{e.filename or FILE} cannot be read: {e.strerror}'
  return ''


def _counts(name, items):
  return not items or name.partition(os.sep)[0] in items


def _files(folder):
  """Returns the relative names of the files with digests."""
  if objects.is_url(folder):
    names = [n for n in objects.names(folder) if not n.endswith('/')]
    return [
      n for n in names if n and n.partition('/')[0] not in _WITHOUT_DIGEST
    ]
  names = []
  for parent, folders, files in os.walk(folder):
    if parent == folder:
      folders[:] = [name for name in folders if name not in _WITHOUT_DIGEST]
      files = [name for name in files if name not in _WITHOUT_DIGEST]
    names += [os.path.relpath(os.path.join(parent, f), folder) for f in files]
  return sorted(names)


def _each(folder, names, keep):
  """Yields (name, (size, CRC-32)) of each file, reading several at a time."""
  with futures.ThreadPoolExecutor(_THREADS, 'digests') as pool:
    paths = [os.path.join(folder, name) for name in names]
    found = pool.map(lambda path: _digest(path, keep), paths)
    yield from zip(names, found, strict=True)


def _digest(path, keep):
  size, crc = 0, 0
  with epath.Path(path).open('rb') as f:
    while chunk := f.read(_CHUNK):
      size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    if keep and not objects.is_url(path):
      os.fsync(f.fileno())
  return size, f'{crc:08x}'
