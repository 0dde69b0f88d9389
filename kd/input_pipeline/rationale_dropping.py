"""Gradually drops the rationales of rows (arXiv 2405.14838).

A student that first learns to answer after worked steps, and then after fewer
and fewer of them, learns to answer without any. Tokens are dropped from the
beginning. Decaying their weight to 0 would not have this effect, since the
student would still learn to answer after all of the steps.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from typing import Any

import numpy as np

from kd.core import errors
from kd.core import schedules
from kd.core import types
from kd.input_pipeline import packing

_KEYS = ('drop_fraction',)
_SOFT = -1  # Not an id: marks the soft tokens of images in _restore.
_STREAM = 0x5407  # Separates this random stream from others of the run's seed.


def build(
  spec: Mapping[str, Any], path: str, steps: int
) -> schedules.Schedule | None:
  """Builds the schedule of the dropped fraction from data.rationale.

  Args:
    spec: a mapping with `drop_fraction`, a number or a schedule.
    path: config path of the mapping.
    steps: number of updates of the whole run.

  Returns:
    The schedule, None if nothing is ever dropped.

  Raises:
    ConfigError: a field is unknown, or the fraction leaves [0, 1].
  """
  for key in spec:
    if key not in _KEYS:
      raise errors.unknown(f'{path}.{key}', 'field', key, _KEYS)
  if 'drop_fraction' not in spec:
    raise errors.ConfigError(f'{path}.drop_fraction', 'missing')
  fraction = schedules.build(
    spec['drop_fraction'], f'{path}.drop_fraction', steps
  )
  lowest, highest = schedules.extremes(fraction, steps)
  if not (lowest >= 0 and highest <= 1):
    bad = highest if highest > 1 else lowest
    raise errors.ConfigError(
      f'{path}.drop_fraction', f'found {bad:g}', legal='0 to 1'
    )
  return fraction if highest > 0 else None


@dataclasses.dataclass(frozen=True)
class Shortened:
  """Removes the first tokens of each rationale from rows.

  Of n tokens, floor(fraction * n + u) are dropped, where u is uniform in [0, 1)
  and drawn for each example from (seed, step, row). So the mean is exact, and
  examples do not all change at the same step. The rows remain a pure function
  of (seed, step).

  Attributes:
    rows: returns rows for a step and indices in its batch, see rows.Rows.
    fraction: fraction to drop, by step.
    seed: seed of the rounding.
    pad_id: id of the freed positions at the end of the row.
  """

  rows: Callable[[int, Iterable[int]], types.Batch]
  fraction: schedules.Schedule
  seed: int
  pad_id: int

  def __call__(self, step: int, numbers: Iterable[int]) -> types.Batch:
    """Returns shortened rows of a step; see rows.Rows."""
    numbers = [int(number) for number in numbers]
    batch = self.rows(step, numbers)
    fraction = float(self.fraction(step))
    if fraction <= 0:
      return batch
    found = []
    for i, number in enumerate(numbers):
      row = {name: getattr(batch, name)[i] for name in packing.FIELDS}
      if batch.images is not None:
        _restore(row, batch.images.index[i])
      draws = np.random.default_rng([_STREAM, self.seed, step, number])
      found.append(shorten(row, fraction, draws, self.pad_id))
    fields = {
      name: np.stack([row[name] for row in found]) for name in packing.FIELDS
    }
    if batch.images is None:
      return types.Batch(**fields, row_id=batch.row_id)
    # Images are neither dropped nor reordered: the n-th soft token stays the
    # n-th.
    index = batch.images.index
    places = fields['tokens'] == _SOFT
    moved = np.full_like(index, -1)
    moved[places] = index[index >= 0]
    fields['tokens'][places] = batch.tokens[index >= 0]
    fields['targets'][fields['targets'] == _SOFT] = self.pad_id
    images = batch.images.replace(index=moved)
    return types.Batch(**fields, row_id=batch.row_id, images=images)


def _restore(row: dict[str, np.ndarray], index: np.ndarray) -> None:
  """Marks the soft tokens of images among a row's tokens and targets."""
  row['tokens'] = np.where(index >= 0, _SOFT, row['tokens'])
  follows = np.append(index[1:], -1) >= 0
  row['targets'] = np.where(follows, _SOFT, row['targets'])


def shorten(
  row: Mapping[str, np.ndarray],
  fraction: float,
  draws: np.random.Generator,
  pad_id: int,
) -> dict[str, np.ndarray]:
  """Returns a row without the first tokens of each rationale.

  Args:
    row: arrays [L] by name in packing.FIELDS.
    fraction: fraction of each rationale to drop, 0 to 1.
    draws: random generator for the rounding.
    pad_id: id of the freed positions.

  Returns:
    The row with its examples in the same order and their positions from 0.
  """
  examples = []
  for segment in range(1, int(row['segment_ids'].max()) + 1):
    at = np.flatnonzero(row['segment_ids'] == segment)
    worked = at[row['parts'][at] == types.RATIONALE]
    count = int(fraction * len(worked) + draws.random())
    kept = at[~np.isin(at, worked[:count])]
    first = row['tokens'][at[0]]
    examples.append(
      packing.Example(
        ids=np.concatenate([[first], row['targets'][kept]]),
        parts=np.concatenate([[types.ANSWER], row['parts'][kept]]),
        weights=np.concatenate([[0.0], row['weights'][kept]]),
        index=segment,
      )
    )
  return packing.fill(examples, len(row['tokens']), pad_id)
