"""A bounded buffer of rows that the student sampled, saved in checkpoints."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from kd.core import types
from kd.input_pipeline import packing

_UNUSED = -1


@dataclasses.dataclass(frozen=True)
class BufferedRow:
  """A row with the student's answer.

  Attributes:
    fields: arrays [L], by the names in packing.FIELDS.
    row_id: id of the row with the same prompt.
    sampled_at: number of updates before the student sampled the answer.
    images: pixels [I, S, S, 3] and index [L] of the prompt, or None.
    logprobs: float32 [L] or None; see types.Batch.sampling_logprobs.
  """

  fields: Mapping[str, np.ndarray]
  row_id: int
  sampled_at: int
  images: types.Images | None = None
  logprobs: np.ndarray | None = None


class Buffer:
  """Stores the latest rows; a new row replaces the oldest."""

  def __init__(self, size: int, length: int, logprobs: bool = False):
    """Allocates space for `size` rows of `length` tokens.

    Space for images, which is far larger, is allocated with the first image.

    Args:
      size: number of rows.
      length: L.
      logprobs: whether rows have log-probabilities.
    """
    self._size, self._length = size, length
    self._arrays = {
      name: np.tile(field, (size, 1))
      for name, field in packing.empty(length, pad_id=0).items()
    }
    if logprobs:
      self._arrays['logprobs'] = np.zeros((size, length), np.float32)
    self._arrays['row_id'] = np.zeros(size, np.int32)
    self._arrays['made'] = np.full(size, _UNUSED, np.int32)
    self._arrays['next'] = np.zeros((), np.int32)

  def state(self) -> dict[str, np.ndarray]:
    """Returns the arrays that `load` takes.

    Their shapes do not change, but the first image adds two arrays.
    """
    return {name: array.copy() for name, array in self._arrays.items()}

  def load(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores the arrays that `state` returned."""
    self._arrays = {name: np.array(array) for name, array in state.items()}

  def allocate_images(self, count: int, side: int) -> None:
    """Allocates space for images, unless it is allocated already.

    Args:
      count: I, the maximum number of images of a row.
      side: S, their width and height in pixels.
    """
    if 'pixels' not in self._arrays:
      shape = (self._size, count, side, side, 3)
      self._arrays['pixels'] = np.zeros(shape, np.uint8)
      empty = np.full((self._size, self._length), -1, np.int32)
      self._arrays['index'] = empty

  def add(self, row: BufferedRow) -> None:
    """Adds a row, in place of the oldest one if the buffer is full."""
    at = int(self._arrays['next'])
    for name in packing.FIELDS:
      self._arrays[name][at] = row.fields[name]
    images = row.images
    if images is not None and (images.index >= 0).any():
      self.allocate_images(*images.pixels.shape[:2])
      self._arrays['pixels'][at] = images.pixels
      self._arrays['index'][at] = images.index
    elif 'index' in self._arrays:
      self._arrays['index'][at] = -1
    if row.logprobs is not None:
      self._arrays['logprobs'][at] = row.logprobs
    self._arrays['row_id'][at], self._arrays['made'][at] = (
      row.row_id,
      row.sampled_at,
    )
    self._arrays['next'][...] = (at + 1) % self._size

  def draw(self, count: int, draws: np.random.Generator) -> list[BufferedRow]:
    """Draws rows without replacement: `count`, or all if there are fewer."""
    used = np.flatnonzero(self._arrays['made'] != _UNUSED)
    chosen = draws.permutation(used)[:count]
    return [self._row(int(at)) for at in chosen]

  def _row(self, at):
    images = None
    if 'index' in self._arrays and (self._arrays['index'][at] >= 0).any():
      images = types.Images(
        self._arrays['pixels'][at].copy(), self._arrays['index'][at].copy()
      )
    logprobs = self._arrays.get('logprobs')
    return BufferedRow(
      {name: self._arrays[name][at].copy() for name in packing.FIELDS},
      int(self._arrays['row_id'][at]),
      int(self._arrays['made'][at]),
      images,
      None if logprobs is None else logprobs[at].copy(),
    )
