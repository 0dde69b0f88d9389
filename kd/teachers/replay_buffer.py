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
    row_id: of the row whose prompt it has.
    made: updates applied to the student when it sampled the answer.
    images: pixels [I, S, S, 3] and index [L] of the prompt; None without.
  """

  fields: Mapping[str, np.ndarray]
  row_id: int
  made: int
  images: types.Images | None = None


class Buffer:
  """Holds the rows that were added last; a new one replaces the oldest."""

  def __init__(self, size: int, length: int, images: tuple[int, int] = (0, 0)):
    """Allocates space for `size` rows of `length` tokens.

    Args:
      size: rows.
      length: L.
      images: I and S of the rows' images; I is 0 where rows have none.
    """
    self._size = size
    self._arrays = {
      name: np.tile(field, (size, 1))
      for name, field in packing.empty(length, pad_id=0).items()
    }
    count, side = images
    self._has_images = bool(count)
    if count:
      shape = (size, count, side, side, 3)
      self._arrays['pixels'] = np.zeros(shape, np.uint8)
      self._arrays['index'] = np.full((size, length), -1, np.int32)
    self._arrays['row_id'] = np.zeros(size, np.int32)
    self._arrays['made'] = np.full(size, _UNUSED, np.int32)
    self._arrays['next'] = np.zeros((), np.int32)

  def state(self) -> dict[str, np.ndarray]:
    """Returns the arrays that `load` takes; their shapes never change."""
    return {name: array.copy() for name, array in self._arrays.items()}

  def load(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores what `state` returned."""
    self._arrays = {name: np.array(state[name]) for name in self._arrays}

  def add(self, row: BufferedRow) -> None:
    """Adds a row, in place of the oldest one if the buffer is full."""
    at = int(self._arrays['next'])
    for name in packing.FIELDS:
      self._arrays[name][at] = row.fields[name]
    if self._has_images and row.images is not None:
      self._arrays['pixels'][at] = row.images.pixels
      self._arrays['index'][at] = row.images.index
    self._arrays['row_id'][at], self._arrays['made'][at] = row.row_id, row.made
    self._arrays['next'][...] = (at + 1) % self._size

  def draw(self, count: int, draws: np.random.Generator) -> list[BufferedRow]:
    """Draws rows without replacement: `count`, or all if there are fewer."""
    used = np.flatnonzero(self._arrays['made'] != _UNUSED)
    chosen = draws.permutation(used)[:count]
    return [self._row(int(at)) for at in chosen]

  def _row(self, at):
    images = None
    if self._has_images:
      images = types.Images(
        self._arrays['pixels'][at].copy(), self._arrays['index'][at].copy()
      )
    return BufferedRow(
      {name: self._arrays[name][at].copy() for name in packing.FIELDS},
      int(self._arrays['row_id'][at]),
      int(self._arrays['made'][at]),
      images,
    )
