"""Which rows a pass over a cache scores when, on which process."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from kd.partitioning import rules
from kd.teachers import shards


class ScoreSchedule:
  """Rows of shards in batches: each shard is one process's to write.

  All processes plan the whole walk and come to the same plan.
  """

  def __init__(
    self,
    mesh: jax.sharding.Mesh,
    batch_size: int,
    wanted: Sequence[shards.Shard],
  ):
    """Plans.

    Args:
      mesh: the devices of all processes.
      batch_size: rows over all of them, B.
      wanted: the shards to be written.
    """
    writers = _writers(mesh, batch_size)
    names = sorted(set(writers.tolist()))
    # Slots of a batch that each writer fills, and its rows in order.
    self._slots = [np.flatnonzero(writers == name) for name in names]
    shares = [list(wanted[n :: len(names)]) for n in range(len(names))]
    self._rows = [
      [row for s in share for row in range(s.first_row, s.first_row + s.rows)]
      for share in shares
    ]
    here = jax.process_index()
    self._mine = names.index(here) if here in names else None
    self.shards = shares[self._mine] if self._mine is not None else []
    self._batch_size = batch_size
    self.steps = max(
      (
        -(-len(rows) // len(slots))
        for rows, slots in zip(self._rows, self._slots, strict=True)
      ),
      default=0,
    )
    self.rows = sum(len(rows) for rows in self._rows)

  def batches(self) -> Iterator[np.ndarray]:
    """The row of each slot of a batch, int64 [B]; -1 where it has none."""
    for step in range(self.steps):
      batch = np.full(self._batch_size, -1)
      for rows, slots in zip(self._rows, self._slots, strict=True):
        part = rows[step * len(slots) : (step + 1) * len(slots)]
        batch[slots[: len(part)]] = part
      yield batch

  def own(self, batch: np.ndarray) -> np.ndarray:
    """Slots of a batch whose rows this process writes, in their order."""
    if self._mine is None:
      return np.zeros(0, np.int64)
    slots = self._slots[self._mine]
    return slots[batch[slots] >= 0]


def _writers(mesh, batch_size):
  """The first process that has each slot of a batch: int64 [B]."""
  places = rules.batch_sharding(mesh).devices_indices_map((batch_size,))
  writers = np.full(batch_size, np.iinfo(np.int64).max)
  for device, index in places.items():
    writers[index] = np.minimum(writers[index], device.process_index)
  return writers
