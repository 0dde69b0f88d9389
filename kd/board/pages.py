"""Computes the contents of the board's pages as JSON values."""

from collections.abc import Callable, Mapping, Sequence
import functools
import json
import math
import os
import threading
import time
from typing import Any

from kd.board import chat
from kd.board import database
from kd.board import evaluations
from kd.board import listing
from kd.board import run_files
from kd.board import status as status_lib
from kd.core import config as config_lib
from kd.core import errors
from kd.core import run_info
from kd.planning import records
from kd.reasoning.trees import tree as tree_lib
from kd.reasoning.trees import tree_run
from kd.teachers.cache import report as cache_report

Parameters = Mapping[str, Sequence[str]]

_REFRESH_S = 1.0  # Minimum time between two refreshes.
_POINTS = 600  # Maximum number of points of a curve.
# These compute intervals or query servers, without blocking other requests.
_SLOW = ('/api/tables', '/api/answers', '/api/models')
_MOST_RUNS = 200  # Maximum number of runs in a request for curves.


class NotFoundError(errors.KdError):
  """A run, a file or a page does not exist."""


class Pages:
  """Answers the pages' requests from a database."""

  def __init__(
    self, db: database.Database, query: database.Query, models: Sequence[str]
  ):
    """Initializes the pages.

    Args:
      db: the database of runs.
      query: the initial query of the first page.
      models: URLs of the servers for the chat.
    """
    self._db, self._query, self._models = db, query, models
    self._lock, self._read_at = threading.Lock(), -math.inf
    self.routes: dict[str, Callable[[Parameters], Any]] = {
      '/api/runs': self._runs,
      '/api/curves': self._curves,
      '/api/run': self._run,
      '/api/differences': self._differences,
      '/api/tables': self._tables,
      '/api/answers': self._answers,
      '/api/documents': self._documents,
      '/api/trees': self._trees,
      '/api/tree': self._tree,
      '/api/models': self._model_names,
    }

  def answer(self, path: str, parameters: Parameters) -> bytes:
    """Returns the JSON response to a page's request.

    Raises:
      NotFoundError: the page, run or file does not exist.
      ConfigError: the query is invalid.
    """
    if path not in self.routes:
      raise NotFoundError('no such page')
    with self._lock:
      now = time.monotonic()
      if now - self._read_at > _REFRESH_S:
        self._db.refresh()
        self._read_at = time.monotonic()
      if path not in _SLOW:
        value = self.routes[path](parameters)
    if path in _SLOW:
      value = self.routes[path](parameters)
    return json.dumps(run_info.jsonable(value)).encode()

  def _runs(self, parameters):
    version = str(self._db.version)
    if _one(parameters, 'version') == version:
      return {'version': version, 'unchanged': True}
    names = ('where', 'metric', 'direction', 'sort')
    query = database.Query(
      **{n: _one(parameters, n, getattr(self._query, n)) for n in names},
      path='',
    )
    selection = self._db.select(query)
    shown = (*database.COLUMNS, 'problems')
    return {
      'version': version,
      'now': time.time(),
      'metric': selection.metric,
      'highest': selection.highest,
      'total': selection.total,
      'query': {n: getattr(query, n) for n in names},
      'metrics': self._db.metrics(),
      'runs': [{n: row.get(n) for n in shown} for row in selection.rows],
    }

  def _curves(self, parameters):
    """Returns the curves of metrics, also those of baselines."""
    runs = [self._files(n) for n in parameters.get('run', ())[:_MOST_RUNS]]
    metrics = parameters.get('metric', ())
    prefixes = ('', run_files.BASELINE)
    return [
      {
        'run': name,
        'metric': metric,
        'baseline': bool(prefix),
        **_thinned(series),
      }
      for name, files in runs
      for metric in metrics
      for prefix in prefixes
      if (series := files.get(prefix + metric)) is not None
    ]

  def _run(self, parameters):
    name, files = self._files(_one(parameters, 'run'))
    status = self._db.statuses[name]
    run = files.run
    return {
      'run': name,
      'folder': self._db.location(files),
      'status': status.name,
      'why': status.why,
      'step': files.step,
      'steps': files.config.get('steps'),
      'modified': files.modified,
      'problems': self._db.problems[name],
      'config': files.config,
      'command': run.get('command'),
      'packages': run.get('packages'),
      'devices': run.get('devices'),
      'mixture': run.get('mixture'),
      'changes': run.get('changes'),
      'metrics': sorted(n for n, _ in files.series()),
      'is_running': status.name == status_lib.RUNNING,
    }

  def _differences(self, parameters):
    """Returns the config fields in which runs differ, with their values."""
    names = [self._files(n)[0] for n in parameters.get('run', ())[:_MOST_RUNS]]
    fields = {
      field
      for name in names[1:]
      for field, _, _ in listing.differences(self._db, names[0], name)
    }
    configs = [config_lib.flatten(self._db.runs[n].config) for n in names]
    return [
      {'field': field, 'values': [c.get(field) for c in configs]}
      for field in sorted(fields)
    ]

  def _tables(self, parameters):
    _, files = self._files(_one(parameters, 'run'))
    return {
      'files': evaluations.count(files),
      'tables': evaluations.tables(files),
    }

  def _answers(self, parameters):
    _, files = self._files(_one(parameters, 'run'))
    return evaluations.answers(files, _one(parameters, 'set'))

  def _documents(self, parameters):
    del parameters
    folders = self._db.folders
    return {
      'plans': [_plans(*item) for item in folders.plans.items()],
      'caches': [
        {'name': name, **_read(os.path.join(folder, cache_report.FILE))}
        for name, folder in folders.caches.items()
      ],
      'searches': [
        {
          'name': name,
          'settings': _read(os.path.join(folder, tree_run.IDENTITY)),
          'trees': len(_tree_files(folder)),
        }
        for name, folder in folders.searches.items()
      ],
    }

  def _trees(self, parameters):
    folder = self._search(parameters)
    return [
      _summary(name, os.path.join(folder, tree_run.TREES, file))
      for name, file in _tree_files(folder).items()
    ]

  def _tree(self, parameters):
    folder = self._search(parameters)
    name = _one(parameters, 'tree')
    files = _tree_files(folder)
    if name not in files:
      raise NotFoundError(f'no tree {name[:80]!r}')
    value = _read(os.path.join(folder, tree_run.TREES, files[name]))
    return {**value, 'statuses': tree_lib.STATUSES}

  def _model_names(self, parameters):
    del parameters
    return [chat.names(url) for url in self._models]

  def _search(self, parameters):
    name = _one(parameters, 'search')
    if name not in self._db.folders.searches:
      raise NotFoundError(f'no search {name[:80]!r}')
    return self._db.folders.searches[name]

  def _files(self, name):
    if name not in self._db.runs:
      raise NotFoundError(f'no run {name[:200]!r}')
    return name, self._db.runs[name]


def _one(parameters, name, default=''):
  return parameters[name][0] if name in parameters else default


def _thinned(series: run_files.Series):
  """Reduces a curve to at most _POINTS points, keeping local extremes."""
  steps, values = series.steps, series.values
  count = len(steps)
  if count <= _POINTS:
    return {'steps': list(steps), 'values': list(values)}
  kept = {0, count - 1}
  stretches = (_POINTS - 2) // 2
  for i in range(stretches):
    stretch = range(i * count // stretches, (i + 1) * count // stretches)
    key = lambda j: values[j] if math.isfinite(values[j]) else 0.0
    kept |= {min(stretch, key=key), max(stretch, key=key)}
  chosen = sorted(kept)
  return {
    'steps': [steps[i] for i in chosen],
    'values': [values[i] for i in chosen],
  }


def _read(path: str) -> dict[str, Any]:
  """Returns the object of a JSON file, or an error as `problem`."""
  name = os.path.basename(path)
  try:
    with open(path, 'rb') as f:
      value = json.loads(f.read())
  except OSError as e:
    return {'problem': f'{name}: {e.strerror}'}
  except (ValueError, RecursionError):
    return {'problem': f'{name} is damaged: not JSON'}
  return (
    value
    if isinstance(value, dict)
    else {'problem': f'{name} is not a JSON object'}
  )


def _plans(name, folder):
  try:
    return {'name': name, 'rows': records.read(folder)}
  except errors.ConfigError as e:
    return {'name': name, 'problem': str(e)}


def _tree_files(folder: str) -> dict[str, str]:
  """Returns the file names of finished trees, by instance name."""
  try:
    names = os.listdir(os.path.join(folder, tree_run.TREES))
  except OSError:
    return {}
  return {
    n.removesuffix('.json'): n for n in sorted(names) if n.endswith('.json')
  }


def _summary(name, path):
  try:
    stat = os.stat(path)
  except OSError:  # Removed since it was listed.
    return _summary_of(name, path, 0, 0)
  return _summary_of(name, path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4096)
def _summary_of(name, path, modified, size):
  del modified, size  # Part of the cache key: a changed file is read again.
  value = _read(path)
  nodes = value.get('nodes')
  nodes = nodes if isinstance(nodes, list) else []
  statuses = [n.get('status') for n in nodes if isinstance(n, dict)]
  return {
    'name': name,
    'question': str(value.get('question', value.get('problem', ''))),
    'nodes': len(nodes),
    'solutions': statuses.count('solution'),
  }
