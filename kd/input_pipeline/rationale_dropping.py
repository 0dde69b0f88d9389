"""Rows whose rationales are dropped little by little (arXiv 2405.14838).

A student that first learns to answer behind worked steps, and then behind fewer
and fewer of them, comes to answer without any. Steps go from the beginning. A
weight that falls to 0 would not do this: the answer would still be learnt, and
so be given, behind all of the steps.
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
_SOFT = -1  # No id: marks the places of images while rows are shortened.
_STREAM = 0x5407  # Apart from whatever else is drawn from the run's seed.


def build(
  spec: Mapping[str, Any], path: str, steps: int
) -> schedules.Schedule | None:
  """The fraction that is dropped by step, from what data.rationale holds.

  Args:
    spec: `dropped`, a number or a schedule.
    path: its config path.
    steps: updates of the whole run.

  Returns:
    The schedule, None if nothing is ever dropped.

  Raises:
    ConfigError: an unknown field, or a fraction that leaves [0, 1].
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
  """Rows as `rows` gives them, without the first tokens of each rationale.

  Of n tokens floor(fraction x n + u) are dropped, u uniform in [0, 1) and drawn
  for each example from (seed, step, row): the mean is exact, and no two
  examples change at the same step. What a step gives is a pure function of
  (seed, step), as without this.

  Attributes:
    rows: from a step and numbers of rows in its batch to these rows.
    fraction: what is dropped by step.
    seed: of the rounding.
    pad_id: what fills the freed positions, at the row's end.
  """

  rows: Callable[[int, Iterable[int]], types.Batch]
  fraction: schedules.Schedule
  seed: int
  pad_id: int

  def __call__(self, step: int, numbers: Iterable[int]) -> types.Batch:
    """The rows of a step, as rows.Rows gives them."""
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
    # Images are neither dropped nor reordered: the n-th place is as before.
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
  """One row without the first tokens of each rationale.

  Args:
    row: by name of packing.FIELDS, [L] each.
    fraction: of each example's rationale, 0 to 1.
    draws: rounds it.
    pad_id: what fills the freed positions.

  Returns:
    The row, examples in their order, positions anew from 0.
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
