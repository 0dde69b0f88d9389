"""Assigns the rows of a cache's shards to batches and processes."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from kd.partitioning import rules
from kd.teachers.cache import shards


class RowAssignment:
  """Assigns the rows of the missing shards to scoring batches.

  Each shard is written by one process. All processes compute the same schedule.
  """

  def __init__(
    self,
    mesh: jax.sharding.Mesh,
    batch_size: int,
    wanted: Sequence[shards.Shard],
  ):
    """Computes the schedule.

    Args:
      mesh: mesh of the devices of all processes.
      batch_size: B, rows per batch over all processes.
      wanted: the shards to write.
    """
    writers = _writers(mesh, batch_size)
    names = sorted(set(writers.tolist()))
    # For each writing process: its slots of a batch, and its rows in order.
    self._slots = [np.flatnonzero(writers == name) for name in names]
    assigned = [list(wanted[n :: len(names)]) for n in range(len(names))]
    self._rows = [
      [row for s in own for row in range(s.first_row, s.first_row + s.rows)]
      for own in assigned
    ]
    here = jax.process_index()
    self._mine = names.index(here) if here in names else None
    self.shards = assigned[self._mine] if self._mine is not None else []
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
    """Yields the row of each slot of a batch, int64 [B]; -1 in empty slots."""
    for step in range(self.steps):
      batch = np.full(self._batch_size, -1)
      for rows, slots in zip(self._rows, self._slots, strict=True):
        next_rows = rows[step * len(slots) : (step + 1) * len(slots)]
        batch[slots[: len(next_rows)]] = next_rows
      yield batch

  def own(self, batch: np.ndarray) -> np.ndarray:
    """Returns the slots of a batch whose rows this process writes, in order."""
    if self._mine is None:
      return np.zeros(0, np.int64)
    slots = self._slots[self._mine]
    return slots[batch[slots] >= 0]


def _writers(mesh, batch_size):
  """Returns the first process that has each slot of a batch: int64 [B]."""
  devices = rules.batch_sharding(mesh).devices_indices_map((batch_size,))
  writers = np.full(batch_size, np.iinfo(np.int64).max)
  for device, index in devices.items():
    writers[index] = np.minimum(writers[index], device.process_index)
  return writers
