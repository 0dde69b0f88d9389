"""The plans of a workdir: plan.json, and a table and a picture made of it."""

from collections.abc import Mapping
import os
from typing import Any

from kd.core import errors
from kd.core import json_files
from kd.core import run_info
from kd.planning import plot
from kd.planning import tables
from kd.planning.cost import estimates

RESULTS, TABLE, PICTURE = 'plan.json', 'plan.md', 'plan.png'
_ROWS = 'plans'
# Rows that agree in these are the same run: the new one replaces the old one.
_KEY = (
  *('teacher', 'student', 'topology', 'length', 'batch_size'),
  *('micro_batches', 'remat', 'mesh', 'teacher_devices', 'teacher_mesh'),
)


def add(workdir: str, row: Mapping[str, Any]) -> str:
  """Adds a row to the workdir's plans, in place of one of the same run.

  A compiled row stays where the new one has its digest and is not compiled.

  Args:
    workdir: the folder; created if it is missing.
    row: from tables.record.

  Returns:
    The date of the compiled row that stays, or ''.

  Raises:
    ConfigError: the workdir's plan.json is not one.
  """
  os.makedirs(workdir, exist_ok=True)
  rows = read(workdir)
  same = lambda other: all(other[key] == row[key] for key in _KEY)
  stays = [
    other
    for other in rows
    if same(other)
    and other['source'] == estimates.COMPILER
    and other['digest'] == row['digest']
  ]
  if stays and row['source'] != estimates.COMPILER:
    return stays[0]['date']
  write(workdir, [other for other in rows if not same(other)] + [dict(row)])
  return ''


def read(workdir: str) -> list[dict[str, Any]]:
  """Returns the rows of a workdir's plan.json; none if there is no such file.

  Raises:
    ConfigError: the file does not hold plans.
  """
  path = os.path.join(workdir, RESULTS)
  if not os.path.exists(path):
    return []
  rows = json_files.read(path).get(_ROWS)
  needed = {*_KEY, 'source', 'digest', 'date', 'paper', 'limit', 'expected'}
  needed |= {'programs', 'bytes'}
  if not isinstance(rows, list) or not all(
    isinstance(row, dict) and needed <= row.keys() for row in rows
  ):
    raise errors.ConfigError(
      path, 'holds no plans of this version', legal='delete it to plan again'
    )
  return rows


def write(workdir: str, rows: list[dict[str, Any]]) -> None:
  """Writes the rows, and makes the table and the picture of them."""
  run_info.write_json(os.path.join(workdir, RESULTS), {_ROWS: rows})
  table = os.path.join(workdir, TABLE)
  run_info.write_text(table, tables.markdown(rows))
  plot.draw(rows, os.path.join(workdir, PICTURE))


def paths(workdir: str) -> list[str]:
  """Returns the files that `write` writes."""
  return [os.path.join(workdir, name) for name in (RESULTS, TABLE, PICTURE)]
