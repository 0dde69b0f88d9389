"""Stores the features that a frozen vision tower computes, in files.

A folder contains the features of one tower in one format (kind), which its name
identifies. A file starts with a line of JSON that lists the keys of its images,
followed by a fixed-size record for each image: the values and a checksum. Files
are written to a temporary name and renamed, or uploaded to a bucket as one
object, and never modified. So every visible file is complete, and several
processes can write to a folder.
"""

from collections.abc import Sequence
import hashlib
import json
import math
import os
import secrets
import zlib

import ml_dtypes
import numpy as np

from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import json_files

BFLOAT16, INT8 = 'bfloat16', 'int8'
KINDS = (BFLOAT16, INT8)
NONE = 'none'  # Config value: features are not cached.
# Values that share an int8 scale; small, as a few channels have large values.
_BLOCK = 32
_LEVELS = 127
_SUFFIX = '.features'
_CHECKSUM_BYTES = 4


def key(data: bytes, crop: int) -> str:
  """Returns the key of an image: its file's digest and the crop number.

  Args:
    data: content of the image file.
    crop: 0 for the whole image, or the 1-based index of one of pictures.crops.
  """
  return f'{hashlib.sha256(data).hexdigest()}-{crop}'


def record_bytes(kind: str, tokens: int, width: int) -> int:
  """Returns the size of an image's encoded values in bytes.

  Args:
    kind: one of KINDS.
    tokens: T, number of soft tokens per image.
    width: E, width of the tower.
  """
  if kind == BFLOAT16:
    return 2 * tokens * width
  return tokens * width + 4 * tokens * (width // math.gcd(width, _BLOCK))


def encode(values: np.ndarray, kind: str) -> bytes:
  """Encodes the features of an image.

  Args:
    values: float32 [T, E].
    kind: one of KINDS.
  """
  if kind == BFLOAT16:
    return values.astype(ml_dtypes.bfloat16).tobytes()
  blocks = values.reshape(-1, math.gcd(values.shape[-1], _BLOCK))
  scales = np.abs(blocks).max(axis=1, keepdims=True).astype(np.float32)
  scales /= _LEVELS
  safe = np.where(scales > 0, scales, 1.0)
  codes = np.rint(blocks / safe).astype(np.int8)
  return codes.tobytes() + scales.tobytes()


def decode(record: bytes, kind: str, tokens: int, width: int) -> np.ndarray:
  """Decodes a record to bfloat16 [T, E]."""
  if kind == BFLOAT16:
    return np.frombuffer(record, ml_dtypes.bfloat16).reshape(tokens, width)
  count = tokens * width
  codes = np.frombuffer(record, np.int8, count)
  scales = np.frombuffer(record, np.float32, offset=count)
  values = codes.reshape(len(scales), -1) * scales[:, None]
  return values.reshape(tokens, width).astype(ml_dtypes.bfloat16)


class Store:
  """A folder that contains the outputs of one tower.

  Attributes:
    kind: one of KINDS.
    tokens: T, number of soft tokens per image.
    width: E, width of the tower.
  """

  def __init__(self, folder: str, kind: str, tokens: int, width: int):
    """Opens a folder, which need not exist.

    Args:
      folder: folder of this tower and kind only, or its local copy in case of a
        bucket.
      kind: one of KINDS.
      tokens: T.
      width: E.

    Raises:
      ConfigError: a file in the folder is damaged.
    """
    self.kind, self.tokens, self.width = kind, tokens, width
    self._folder = folder
    self._bytes = record_bytes(kind, tokens, width) + _CHECKSUM_BYTES
    # Maps a key to (file, offset of the record). Files are not kept open, as
    # there may be more files than a process can have descriptors.
    self._places: dict[str, tuple[str, int]] = {}
    # Sums of squared errors and of squared values over all images.
    self._error = self._square = 0.0
    self._files: set[str] = set()
    self.refresh()

  def refresh(self) -> None:
    """Indexes the files that other processes have written.

    Raises:
      ConfigError: a file is damaged.
    """
    for name in buckets.names(self._folder):
      if name.endswith(_SUFFIX) and name not in self._files:
        buckets.fetch(os.path.join(self._folder, name), check=False)
    if os.path.isdir(self._folder):
      for name in sorted(os.listdir(self._folder)):
        if name.endswith(_SUFFIX) and name not in self._files:
          self._open(os.path.join(self._folder, name))

  def _open(self, path):
    """Indexes the images of a file."""
    with open(path, 'rb') as f:
      line = f.readline()
    header = json_files.parse_object(line, path, 'a line of JSON with keys')
    keys = header['keys']
    expected = len(line) + len(keys) * self._bytes
    if os.path.getsize(path) != expected:
      raise _damaged(path, f'{os.path.getsize(path)} of {expected} bytes')
    self._files.add(os.path.basename(path))
    self._error += header['error']
    self._square += header['square']
    for number, one in enumerate(keys):
      self._places[one] = path, len(line) + number * self._bytes

  def __len__(self) -> int:
    return len(self._places)

  @property
  def record_bytes(self) -> int:
    """Returns the size of an image's encoded values in bytes."""
    return self._bytes - _CHECKSUM_BYTES

  def __contains__(self, image: str) -> bool:
    """Returns whether the store contains the image with a key."""
    return image in self._places

  @property
  def relative_error(self) -> float:
    """Returns the RMS encoding error divided by the RMS value."""
    return (self._error / self._square) ** 0.5 if self._square else 0.0

  def add(self, keys: Sequence[str], values: np.ndarray) -> None:
    """Writes the features of images.

    Args:
      keys: keys of n images that the store does not contain.
      values: float32 [n, T, E].

    Raises:
      NonFiniteError: a value is not finite.
    """
    if not np.isfinite(values).all():
      raise errors.NonFiniteError(
        "the vision tower's output for an image is NaN or infinite"
      )
    records, error = [], 0.0
    for one in values:
      record = encode(one, self.kind)
      kept = decode(record, self.kind, self.tokens, self.width)
      error += float(np.sum(np.square(one - kept.astype(np.float32))))
      records += [record, zlib.crc32(record).to_bytes(4, 'little')]
    square = float(np.sum(np.square(values, dtype=np.float64)))
    header = {'keys': list(keys), 'error': error, 'square': square}
    os.makedirs(self._folder, exist_ok=True)
    # A random name, since several runs may write to a folder at once.
    path = os.path.join(self._folder, secrets.token_hex(8) + _SUFFIX)
    line = json.dumps(header, allow_nan=False).encode() + b'\n'
    atomic_files.write_bytes(path, b''.join([line, *records]))
    self._open(path)

  def read(self, image: str) -> np.ndarray:
    """Returns the features of an image: bfloat16 [T, E].

    Args:
      image: key of the image.

    Raises:
      ConfigError: the record is damaged.
    """
    path, begin = self._places[image]
    with open(path, 'rb') as f:
      f.seek(begin)
      record = f.read(self._bytes)
    values, checksum = record[:-_CHECKSUM_BYTES], record[-_CHECKSUM_BYTES:]
    if zlib.crc32(values) != int.from_bytes(checksum, 'little'):
      raise _damaged(path, f'record at byte {begin}')
    return decode(values, self.kind, self.tokens, self.width)


def _damaged(path, what):
  return errors.ConfigError(
    path,
    f'is damaged: {what}',
    legal='the file as it was written; delete it to compute its images again',
  )
