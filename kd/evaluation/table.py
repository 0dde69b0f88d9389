"""Renders the table of a report: models in columns, metrics in rows."""

from collections.abc import Sequence
import dataclasses

from kd.evaluation import intervals

MISSING = '-'

Cell = float | intervals.Interval | None


@dataclasses.dataclass(frozen=True)
class TableRow:
  """One measure of all models.

  Attributes:
    name: name of the measure, with its unit.
    cells: one cell per column; None if a model lacks the measure.
    decimals: number of digits after the decimal point.
  """

  name: str
  cells: Sequence[Cell]
  decimals: int = 4


@dataclasses.dataclass(frozen=True)
class Table:
  """The contents of a table.

  Attributes:
    columns: names of the models.
    rows: measures.
    notes: sentences below the table.
  """

  columns: Sequence[str]
  rows: Sequence[TableRow]
  notes: Sequence[str] = ()

  def __post_init__(self):
    for row in self.rows:
      if len(row.cells) != len(self.columns):
        raise ValueError(
          f'row {row.name!r} has {len(row.cells)} cells, not'
          f' {len(self.columns)}'
        )


def markdown(table: Table) -> str:
  """Renders a table and its notes as Markdown."""
  header, *body = [
    [cell.replace('|', r'\|') for cell in line] for line in _grid(table)
  ]
  rule = ['---'] + ['---:'] * len(table.columns)
  lines = [f'| {" | ".join(line)} |' for line in (header, rule, *body)]
  if table.notes:
    lines += [''] + [f'- {note}' for note in table.notes]
  return '\n'.join(lines) + '\n'


def text(table: Table) -> str:
  """Renders a table and its notes as aligned text for a terminal."""
  grid = _grid(table)
  widths = [max(map(len, column)) for column in zip(*grid, strict=True)]

  def line(cells):
    name, *numbers = cells
    padded = [name.ljust(widths[0])] + [
      n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)
    ]
    return '  '.join(padded)

  lines = [line(grid[0]), '  '.join('-' * w for w in widths)]
  lines += [line(cells) for cells in grid[1:]] + list(table.notes)
  return '\n'.join(lines) + '\n'


def gap_note(name: str, gap: intervals.GapShare) -> str:
  """Returns a sentence on whether distillation helped.

  Args:
    name: name of the measure, e.g. 'NLL'.
    gap: share of the gap that the student closed.

  Returns:
    One sentence with the interval, or with the reason why there is none.
  """
  level = f'{intervals.LEVEL:.0%}'
  if gap.interval is None:
    return f'{name}: no share of the gap to the teacher: {gap.reason}.'
  value, low, high = (
    f'{x:.1%}'
    for x in (gap.interval.value, gap.interval.low, gap.interval.high)
  )
  if gap.interval.low > 0:
    verdict = 'distillation helped'
  elif gap.interval.high < 0:
    verdict = 'distillation hurt'
  else:
    verdict = 'the effect of distillation is inconclusive'
  return (
    f'{name}: {value} of the gap between baseline and teacher closed'
    f' ({level} interval {low} to {high}): {verdict}.'
  )


def _grid(table: Table) -> list[list[str]]:
  """Returns all cells as text, starting with the header."""
  lines = [['', *table.columns]]
  for row in table.rows:
    lines.append([row.name, *(_cell(c, row.decimals) for c in row.cells)])
  return lines


def _cell(cell: Cell, decimals: int) -> str:
  if cell is None:
    return MISSING
  if not isinstance(cell, intervals.Interval):
    return f'{cell:.{decimals}f}'
  value, low, high = (
    f'{x:.{decimals}f}' for x in (cell.value, cell.low, cell.high)
  )
  return f'{value} [{low}, {high}]'
