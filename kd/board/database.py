"""An in-memory database of runs: DuckDB over the files of workdirs.

Nothing is stored: the database is filled from the files, and changed files are
read again.
"""

from collections import Counter
from collections.abc import Callable, Sequence
import dataclasses
import json
import os
import re
import time
from typing import Any

from kd.board import bucket_root
from kd.board import directions
from kd.board import discovery
from kd.board import expressions
from kd.board import run_files
from kd.board import sql
from kd.board import status as status_lib
from kd.core import config as config_lib
from kd.core import errors
from kd.core import objects

Row = dict[str, Any]

# Types of the columns that every run has.
COLUMNS = {
  'run': 'VARCHAR',
  'folder': 'VARCHAR',
  'status': 'VARCHAR',
  'why': 'VARCHAR',
  'step': 'BIGINT',
  'steps': 'BIGINT',
  'age_s': 'DOUBLE',
  'modified': 'DOUBLE',
  'best': 'DOUBLE',
  'best_step': 'BIGINT',
  'metric': 'VARCHAR',
  'problems': 'BIGINT',
}
CONFIG = 'config.'  # Prefix of the fields of a config.
_NLL = re.compile(r'eval/[^/]+/nll')


@dataclasses.dataclass(frozen=True)
class Query:
  """A selection and order of runs; as the fields of `board`.

  Attributes:
    where: condition on columns; '': all runs.
    metric: metric for the columns `best` and `best_step`.
    direction: 'min', 'max' or 'auto'.
    sort: a column, or -COLUMN for descending order.
    path: prefix of the field names in messages.
  """

  where: str = ''
  metric: str = ''
  direction: str = 'auto'
  sort: str = ''
  path: str = 'board.'


@dataclasses.dataclass(frozen=True)
class Selection:
  """The result of a query.

  Attributes:
    rows: one dict per run, with the columns that the run has.
    metric: metric of the column `best`; '' if no run has any.
    highest: whether high values of the metric are good.
    total: number of all runs.
  """

  rows: list[Row]
  metric: str
  highest: bool
  total: int


class Database:
  """The runs in some folders and their subfolders."""

  def __init__(
    self, roots: Sequence[str], clock: Callable[[], float] = time.time
  ):
    """Initializes an empty database; `refresh` reads the files.

    Args:
      roots: folders to search for runs, local or in buckets.
      clock: returns the time in seconds since 1970.
    """
    self._clock = clock
    self._buckets = [
      bucket_root.BucketRoot(x) for x in roots if objects.is_url(x)
    ]
    copies = iter(self._buckets)
    self._roots = [
      next(copies).folder if objects.is_url(x) else x for x in roots
    ]
    self.folders = discovery.Discovered({}, {}, {}, {})
    self.runs: dict[str, run_files.RunFiles] = {}
    self.statuses: dict[str, status_lib.Status] = {}
    self.problems: dict[str, list[str]] = {}
    self.version = 0  # Incremented when a run has changed.

  def refresh(self) -> None:
    """Reads the files that have changed since the last call.

    Raises:
      ConfigError: a folder or bucket cannot be read.
    """
    for bucket in self._buckets:
      bucket.refresh()
    self.folders = discovery.find(self._roots, self._location)
    folders = self.folders.runs
    changed = folders.keys() != self.runs.keys()
    runs, now = {}, self._clock()
    statuses, problems = {}, {}
    for name, folder in folders.items():
      files = self.runs.get(name)
      if files is None or files.folder != folder:
        files = run_files.RunFiles(folder)
      changed |= files.refresh()
      runs[name] = files
      bucket = self._bucket(folder)
      statuses[name] = status_lib.of(files, now, bucket is not None)
      problems[name] = _problems(files, statuses[name])
      if bucket and bucket.problem:
        problems[name].append(bucket.problem)
    changed |= statuses != self.statuses
    self.runs, self.statuses, self.problems = runs, statuses, problems
    self.version += changed

  def location(self, files: run_files.RunFiles) -> str:
    """Returns the folder or URL of a run."""
    return self._location(files.folder)

  def _location(self, folder):
    bucket = self._bucket(folder)
    return bucket.url + folder[len(bucket.folder) :] if bucket else folder

  def _bucket(self, folder):
    """Returns the root of a folder's original; None if it is local."""
    for bucket in self._buckets:
      if f'{folder}/'.startswith(f'{bucket.folder}/'):
        return bucket
    return None

  def metrics(self) -> list[str]:
    """Returns the sorted names of the metrics of all runs."""
    return sorted(
      {name for files in self.runs.values() for name, _ in files.series()}
    )

  def select(self, query: Query) -> Selection:
    """Runs a query.

    Raises:
      ConfigError: a column or metric does not exist, or the condition is
        invalid; names the field.
    """
    metric = self._metric(query)
    highest = directions.is_highest(metric, query.direction, self.runs)
    rows = [self._row(name, metric, highest) for name in self.runs]
    chosen = _ordered(rows, query, highest)
    return Selection(chosen, metric, highest, len(rows))

  def _metric(self, query):
    names = Counter(
      name for files in self.runs.values() for name, _ in files.series()
    )
    if query.metric:
      if names and query.metric not in names:
        near = errors.nearest(query.metric, names)
        legal = [n for n in names if n.startswith('eval/')] or list(names)
        raise errors.unknown(
          f'{query.path}metric', 'metric', query.metric, legal, near
        )
      return query.metric
    likely = [n for n in names if _NLL.fullmatch(n)]
    if not likely:
      return 'train/loss' if 'train/loss' in names else ''
    return min(likely, key=lambda n: (-names[n], n))

  def _row(self, name, metric, highest) -> Row:
    files, status = self.runs[name], self.statuses[name]
    steps = files.config.get('steps')
    row = {
      'run': name,
      'folder': self.location(files),
      'status': status.name,
      'why': status.why,
      'step': files.step,
      'steps': steps if isinstance(steps, int) else None,
      'age_s': max(0.0, self._clock() - files.modified),
      'modified': files.modified,
      'metric': metric or None,
      'problems': len(self.problems[name]),
    }
    series = files.get(metric) if metric else None
    best = series.best(highest) if series else None
    row['best_step'], row['best'] = best or (None, None)
    for field, value in config_lib.flatten(files.config).items():
      row[CONFIG + field] = _scalar(value)
    for metric_name, values in files.series():
      row.setdefault(metric_name, values.values[-1])
    return row


def _problems(files, status):
  lines = list(files.problems)
  if files.incomplete_bytes and status.name != status_lib.RUNNING:
    lines.append(
      f'{run_files.METRICS}: the last line is incomplete '
      f'({files.incomplete_bytes} bytes); skipped'
    )
  return lines


def _scalar(value):
  if value is None or isinstance(value, bool | int | float | str):
    return value
  return json.dumps(value)


def _ordered(rows: list[Row], query: Query, highest: bool) -> list[Row]:
  """Returns the rows that satisfy the condition, sorted."""
  types = {**sql.types(rows), **COLUMNS}
  columns = sql.columns(types)
  condition, by = 'true', 'age_s'
  if query.where.strip():
    condition = expressions.to_sql(query.where, columns, f'{query.path}where')
  descending = False
  if query.sort:
    descending = query.sort.startswith('-')
    by = query.sort.removeprefix('-')
    if by not in types:
      raise errors.unknown(
        f'{query.path}sort',
        'column',
        by,
        [*COLUMNS],
        errors.nearest(by, types),
      )
  elif query.metric:
    by, descending = 'best', highest
  if not rows:
    return []
  direction = 'DESC' if descending else 'ASC'
  statement = (
    f'SELECT {sql.NUMBER} FROM {sql.TABLE} WHERE ({condition}) ORDER BY '
    f'{columns[by]} {direction} NULLS LAST, {columns["run"]}'
  )
  table = sql.table(rows, types)
  return [
    rows[i]
    for i in sql.numbers(statement, table, columns, f'{query.path}where')
  ]


def default_roots(arguments: Sequence[str], workdir: str | None) -> list[str]:
  """Returns the folders to search, by default the current one.

  Args:
    arguments: positional arguments of the command.
    workdir: the flag --workdir, one more folder.
  """
  named = [*arguments, *([workdir] if workdir else [])]
  return [os.path.expanduser(x) for x in named] or ['.']
