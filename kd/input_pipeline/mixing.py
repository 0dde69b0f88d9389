"""Chooses the task of each row of a mixture according to the rates.

seqio declares a rate for each task, and users expect it to count examples. But
rows contain different numbers of examples: many short ones or a single long
one. The unit of the rates is rows, examples or target tokens.
"""

from collections.abc import Sequence
import fractions
import math

from kd.input_pipeline import prepared as prepared_lib

UNITS = ('rows', 'examples', 'tokens')
_PRECISION = 1_000_000  # Maximum denominator of shares.


def row_shares(
  prepared: Sequence[prepared_lib.Prepared], unit: str
) -> list[float]:
  """Returns each task's share of the rows.

  Args:
    prepared: the rows of each task of a mixture, with its rate.
    unit: unit of the rates, one of UNITS.

  Returns:
    Shares that sum to 1, in the order of the tasks.
  """
  weights = [
    task_rows.rate / _per_row(task_rows, unit) for task_rows in prepared
  ]
  return [weight / sum(weights) for weight in weights]


def _per_row(task_rows: prepared_lib.Prepared, unit: str) -> float:
  """Returns the average amount of a unit per row of a task."""
  counts = task_rows.counts
  return {
    'rows': lambda: 1.0,
    'examples': lambda: (
      (counts['examples'] - counts['too_long']) / counts['rows']
    ),
    'tokens': lambda: counts['target_weight'] / counts['rows'],
  }[unit]()


def describe(
  prepared: Sequence[prepared_lib.Prepared], unit: str, rows: int
) -> dict[str, dict[str, float]]:
  """Returns the shares of the tasks of a mixture in a run.

  Args:
    prepared: the rows of each task.
    unit: unit of the rates.
    rows: number of rows that the run trains on.

  Returns:
    By task, its share of the declared rates, of rows, of examples and of target
    tokens, and the number of epochs over its rows.
  """
  shares = row_shares(prepared, unit)
  rates = sum(task_rows.rate for task_rows in prepared)
  totals = {
    u: sum(s * _per_row(p, u) for s, p in zip(shares, prepared, strict=True))
    for u in UNITS
  }
  return {
    task_rows.task: {
      'rate': task_rows.rate / rates,
      **{u: share * _per_row(task_rows, u) / totals[u] for u in UNITS},
      'epochs': rows * share / task_rows.counts['rows'],
    }
    for task_rows, share in zip(prepared, shares, strict=True)
  }


def lines(described: dict[str, dict[str, float]], unit: str) -> list[str]:
  """Formats the result of `describe` as lines of text."""
  head = f'mixture of {len(described)} tasks, rates are fractions of {unit}:'
  return [head] + [
    f'  {task}: rate {d["rate"]:.1%}, {d["rows"]:.1%} of rows, '
    f'{d["examples"]:.1%} of examples, {d["tokens"]:.1%} of target tokens, '
    f'{d["epochs"]:.3g} epochs'
    for task, d in described.items()
  ]


class Order:
  """The stateless order of the rows of a mixture."""

  def __init__(self, shares: Sequence[float]):
    """Initializes the order.

    Args:
      shares: each task's share of the rows, see `row_shares`.
    """
    most = max(shares)
    ratios = [
      fractions.Fraction(share / most).limit_denominator(_PRECISION)
      for share in shares
    ]
    scale = math.lcm(*(ratio.denominator for ratio in ratios))
    # Integers keep the order exact for any number of rows.
    self._shares = [int(ratio * scale) for ratio in ratios]

  def __getitem__(self, number: int) -> tuple[int, int]:
    """Returns the task of a row, and the row's index among that task's rows.

    Tasks are split off in order: of the first n rows that do not belong to an
    earlier task, n * rest // whole do not belong to this one either.

    Args:
      number: index of the row, from 0.
    """
    first, last, whole = number, number + 1, sum(self._shares)
    for task, share in enumerate(self._shares):
      rest = whole - share
      others_first, others_last = first * rest // whole, last * rest // whole
      if others_first == others_last:
        return task, first - others_first
      first, last, whole = others_first, others_last, rest
    raise AssertionError('the last task with a share takes all that is left')
