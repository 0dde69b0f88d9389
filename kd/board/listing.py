"""Formats runs as a table for a terminal, as differences and as JSON."""

from collections.abc import Iterator, Sequence
import json
from typing import Any

from kd.board import database
from kd.core import config as config_lib
from kd.core import run_info
from kd.run import workdirs

_DIFFERENCES = 3  # Changed fields shown per row.
_WIDEST = 60


def table(
  selection: database.Selection,
  db: database.Database,
  columns: Sequence[str] = (),
) -> list[str]:
  """Returns the lines of a table.

  Args:
    selection: the runs.
    db: the database of the runs.
    columns: additional columns.
  """
  if not selection.rows:
    return [_count(selection)]
  first = selection.rows[0]['run']
  grid = [
    (
      *('run', 'status', 'step', 'age', selection.metric or 'metric', 'at'),
      *columns,
      f'config differs from {first}',
    )
  ]
  for row in selection.rows:
    changes = [_change(x) for x in _relevant_differences(db, first, row['run'])]
    more = len(changes) - _DIFFERENCES
    shown = ', '.join(changes[:_DIFFERENCES]) + (
      f', +{more}' if more > 0 else ''
    )
    grid.append(
      (
        row['run'],
        row['status'] + ('!' if row['problems'] else ''),
        _step(row),
        _age(row['age_s']),
        _number(row['best']),
        _number(row['best_step']),
        *(_number(row.get(name)) for name in columns),
        shown,
      )
    )
  lines = _aligned(grid, left=(0, 1, len(grid[0]) - 1))
  return [*lines, *_notes(selection, db)]


def _aligned(grid, left):
  cells = [[_fit(cell) for cell in row[:-1]] + [row[-1]] for row in grid]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return [
    '  '.join(
      cell.ljust(width) if i in left else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in cells
  ]


def _fit(text):
  return text if len(text) <= _WIDEST else '...' + text[3 - _WIDEST :]


def _count(selection):
  rows = len(selection.rows)
  of_all = '' if rows == selection.total else f' of {selection.total}'
  return f'{rows}{of_all} run{"" if rows == 1 else "s"}'


def _notes(selection, db) -> Iterator[str]:
  counts: dict[str, int] = {}
  for row in selection.rows:
    counts[row['status']] = counts.get(row['status'], 0) + 1
  parts = ', '.join(f'{count} {name}' for name, count in counts.items())
  yield f'{_count(selection)}: {parts}'
  if selection.metric:
    way = 'highest' if selection.highest else 'lowest'
    yield f'{selection.metric}: the {way} of each run, and its step'
  for row in selection.rows:
    if row['status'] in ('failed', 'preempted'):
      yield f'{row["run"]}: {row["status"]}: {_line(row["why"])}'
    for problem in db.problems[row['run']]:
      yield f'{row["run"]}! {problem}'


def _line(text):
  return ' '.join(text.split())[:200]


def differences(
  db: database.Database, first: str, run: str
) -> list[tuple[str, Any, Any]]:
  """Returns (field, value in `first`, value in `run`) where configs differ."""
  pair = [
    {k: v for k, v in db.runs[name].config.items() if k != 'board'}
    for name in (first, run)
  ]
  return list(config_lib.differences(*pair))


def _relevant_differences(db, first, run):
  """Returns the differences that can affect the training result.

  Leaves out fields that only one of the configs has, which other versions of kd
  cause. Returns all differences if none remains.
  """
  return [
    (field, old, new)
    for field, old, new in differences(db, first, run)
    if config_lib.ABSENT not in (old, new)
    and not field.startswith(workdirs.RESUMABLE)
  ] or differences(db, first, run)


def _change(difference):
  field, _, value = difference
  # The last two parts usually identify the field.
  return f'{".".join(field.split(".")[-2:])}={_value(value)}'


def _value(value):
  text = value if isinstance(value, str) else json.dumps(value)
  return text if len(text) <= 40 else text[:37] + '...'


def difference_lines(
  selection: database.Selection, db: database.Database
) -> list[str]:
  """Returns the differences of each run's config from the first run's."""
  if not selection.rows:
    return [_count(selection)]
  first, *others = [row['run'] for row in selection.rows]
  lines = []
  for name in others:
    changes = differences(db, first, name)
    lines.append(f'{name} differs from {first} in {len(changes)} fields')
    lines += [
      f'  {field}: {_value(old)} -> {_value(new)}'
      for field, old, new in changes
    ]
  return lines or [f'{first} is the only run']


def as_json(selection: database.Selection, db: database.Database) -> str:
  """Returns the runs with all columns, differences and problems as JSON."""
  first = selection.rows[0]['run'] if selection.rows else ''
  runs = [
    {
      **row,
      'problems': db.problems[row['run']],
      'differences': {
        field: [old, new]
        for field, old, new in differences(db, first, row['run'])
      },
    }
    for row in selection.rows
  ]
  value = {
    'metric': selection.metric,
    'direction': 'max' if selection.highest else 'min',
    'total': selection.total,
    'runs': runs,
  }
  return json.dumps(run_info.jsonable(value), indent=1)


def _number(value: Any) -> str:
  """Formats a table cell."""
  if value is None:
    return '-'
  if isinstance(value, float):
    return f'{value:.5g}' if value else '0'
  return str(value)


def _step(row):
  return (
    str(row['step'])
    if row['steps'] is None
    else f'{row["step"]}/{row["steps"]}'
  )


def _age(seconds: float) -> str:
  """Formats a duration in its largest unit: 40s, 3m, 7h, 12d."""
  for unit, size in (('d', 86400), ('h', 3600), ('m', 60)):
    if seconds >= size:
      return f'{seconds / size:.0f}{unit}'
  return f'{seconds:.0f}s'
