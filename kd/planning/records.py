"""Stores the plans of a workdir: plan.json, its table and its plot."""

from collections.abc import Mapping
import os
from typing import Any

from kd.core import atomic_files
from kd.core import errors
from kd.core import json_files
from kd.planning import plot
from kd.planning import tables
from kd.planning.cost import estimates

RESULTS, TABLE, PICTURE = 'plan.json', 'plan.md', 'plan.png'
_ROWS = 'plans'
# Rows that agree in these fields describe the same run; a new row replaces the
# old one.
_KEY = (
  *('teacher', 'student', 'topology', 'length', 'batch_size'),
  *('micro_batches', 'remat', 'mesh', 'teacher_devices', 'teacher_mesh'),
)


def add(workdir: str, row: Mapping[str, Any]) -> str:
  """Adds a row to a workdir's plans, replacing that of the same run.

  An estimate by formula does not replace a compiled row with the same digest.

  Args:
    workdir: the folder; created if it is missing.
    row: a row from tables.record.

  Returns:
    The date of the compiled row that was kept, or ''.

  Raises:
    ConfigError: plan.json is not a plan of this version.
  """
  os.makedirs(workdir, exist_ok=True)
  rows = read(workdir)
  same = lambda other: all(other[key] == row[key] for key in _KEY)
  compiled = [
    other
    for other in rows
    if same(other)
    and other['source'] == estimates.COMPILER
    and other['digest'] == row['digest']
  ]
  if compiled and row['source'] != estimates.COMPILER:
    return compiled[0]['date']
  write(workdir, [other for other in rows if not same(other)] + [dict(row)])
  return ''


def read(workdir: str) -> list[dict[str, Any]]:
  """Returns the rows of plan.json, or [] if there is no such file.

  Raises:
    ConfigError: the file is not a plan of this version.
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
      path, 'is not a plan of this version', legal='delete it to plan again'
    )
  return rows


def write(workdir: str, rows: list[dict[str, Any]]) -> None:
  """Writes plan.json, and the table and the plot of its rows."""
  atomic_files.write_json(os.path.join(workdir, RESULTS), {_ROWS: rows})
  table = os.path.join(workdir, TABLE)
  atomic_files.write_text(table, tables.markdown(rows))
  plot.draw(rows, os.path.join(workdir, PICTURE))


def paths(workdir: str) -> list[str]:
  """Returns the paths of the files that `write` creates."""
  return [os.path.join(workdir, name) for name in (RESULTS, TABLE, PICTURE)]
