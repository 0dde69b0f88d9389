"""Which task of a mixture each row comes from, so that its rates hold.

seqio declares a rate for each task, and users expect it to count examples. Rows
hold different numbers of these: many short ones or a single long one. The unit
says what rates are shares of: rows, examples or target tokens.
"""

from collections.abc import Sequence
import fractions
import math

from kd.input_pipeline import prepared as prepared_lib

UNITS = ('rows', 'examples', 'tokens')
_PRECISION = 1_000_000  # Shares are taken as fractions of this denominator.


def row_shares(
  prepared: Sequence[prepared_lib.Prepared], unit: str
) -> list[float]:
  """Returns the share of rows that each task gets.

  Args:
    prepared: the rows of each task of a mixture, with its rate.
    unit: what the rates are shares of, one of UNITS.

  Returns:
    Shares that sum to 1, in the order of the tasks.
  """
  weights = [
    task_rows.rate / _per_row(task_rows, unit) for task_rows in prepared
  ]
  return [weight / sum(weights) for weight in weights]


def _per_row(task_rows: prepared_lib.Prepared, unit: str) -> float:
  """Returns how much of a unit a row of a task holds on average."""
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
  """Returns what the tasks of a mixture amount to in a run.

  Args:
    prepared: the rows of each task.
    unit: what the rates are shares of.
    rows: number of rows that the run trains on.

  Returns:
    By task: its share of the declared rates, of rows, examples and target
    tokens, and how often the run goes through its rows (epochs).
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
  """Returns the lines that show a user what `describe` returned."""
  head = f'mixture of {len(described)} tasks, rates are shares of {unit}:'
  return [head] + [
    f'  {task}: rate {d["rate"]:.1%}, {d["rows"]:.1%} of rows, '
    f'{d["examples"]:.1%} of examples, {d["tokens"]:.1%} of target tokens, '
    f'{d["epochs"]:.3g} epochs'
    for task, d in described.items()
  ]


class Order:
  """The sequence of rows of a mixture, without state."""

  def __init__(self, shares: Sequence[float]):
    """Initializes the order.

    Args:
      shares: the share of rows of each task, as `row_shares` returns them.
    """
    most = max(shares)
    ratios = [
      fractions.Fraction(share / most).limit_denominator(_PRECISION)
      for share in shares
    ]
    scale = math.lcm(*(ratio.denominator for ratio in ratios))
    # Integers: the order is exact, however many rows there are.
    self._shares = [int(ratio * scale) for ratio in ratios]

  def __getitem__(self, number: int) -> tuple[int, int]:
    """Returns the task of a row, and its number among that task's rows.

    Tasks are split off one after the other: of the n first rows that are not of
    an earlier task, n x rest // whole are not of this one either.

    Args:
      number: of the row, from 0.
    """
    first, last, whole = number, number + 1, sum(self._shares)
    for task, share in enumerate(self._shares):
      rest = whole - share
      others_first, others_last = first * rest // whole, last * rest // whole
      if others_first == others_last:
        return task, first - others_first
      first, last, whole = others_first, others_last, rest
    raise AssertionError('the last task with a share takes all that is left')
