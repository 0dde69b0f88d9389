"""Finds the runs, plans, caches and searches below folders."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import os

from kd.board import run_files
from kd.core import bucket_copy
from kd.core import errors
from kd.planning import records
from kd.reasoning.trees import tree_run
from kd.run import outputs
from kd.teachers.cache import report

# Large subfolders of a workdir that never contain other workdirs.
_OWN = frozenset(
  {'checkpoints', 'profile', 'damaged-checkpoints', 'traces', tree_run.TREES}
  | {outputs.BASELINE, outputs.EVALUATIONS}
)
_DEEPEST = 8
_MOST = 100_000  # Folders that are searched below a root.


@dataclasses.dataclass(frozen=True)
class Discovered:
  """Paths of folders by name: the relative path from the root.

  With several roots, the name begins with that of the root.

  Attributes:
    runs: workdirs of runs.
    plans: folders with plans.
    caches: workdirs with cache reports.
    searches: folders of tree-of-thought searches.
  """

  runs: dict[str, str]
  plans: dict[str, str]
  caches: dict[str, str]
  searches: dict[str, str]


def find(
  roots: Sequence[str], location: Callable[[str], str] = str
) -> Discovered:
  """Searches folders and their subfolders.

  Args:
    roots: the folders.
    location: returns the unique name of a folder, for two runs of equal names.

  Raises:
    ConfigError: a root is not a folder or cannot be read.
  """
  discovered = Discovered({}, {}, {}, {})
  marked = (
    (discovered.runs, {run_files.RUN, run_files.METRICS}),
    (discovered.plans, {records.RESULTS}),
    (discovered.caches, {report.FILE}),
    (discovered.searches, {tree_run.IDENTITY}),
  )
  for root in roots:
    _check(root)
    # normpath, as '.' and 'runs/' have no base name.
    base = os.path.normpath(os.path.abspath(root))
    for folder, names in _below(base):
      for folders, marks in marked:
        if not names.isdisjoint(marks):
          folders[_name(folder, base, roots, folders, location)] = folder
  return Discovered(*(dict(sorted(folders.items())) for folders, _ in marked))


def _name(folder, base, roots, taken, location):
  name = os.path.relpath(folder, base)
  if name == '.':
    name = os.path.basename(base)
  elif len(roots) > 1:
    name = os.path.join(os.path.basename(base), name)
  return location(folder) if taken.get(name, folder) != folder else name


def _check(root):
  if not os.path.isdir(root):
    raise errors.ConfigError(
      'command line', f'{root!r}: no such folder', legal='folders of runs'
    )
  if not os.access(root, os.R_OK | os.X_OK):
    raise errors.ConfigError(
      'command line',
      f'{root!r} cannot be read',
      legal='folders that this user can read',
    )


def _below(base: str) -> Iterator[tuple[str, set[str]]]:
  """Yields folders with the names they contain; does not follow links."""
  looked_at, waiting = 0, [(base, 0)]
  while waiting and looked_at < _MOST:
    folder, depth = waiting.pop()
    looked_at += 1
    try:
      with os.scandir(folder) as entries:
        listed = list(entries)
    except OSError:
      continue
    names = {entry.name for entry in listed}
    yield folder, names
    if depth == _DEEPEST:
      continue
    is_own = not names.isdisjoint({*run_files.MARKS, tree_run.IDENTITY})
    for entry in listed:
      # Local copies of buckets have roots of their own.
      if entry.name.startswith(('.', bucket_copy.PREFIX)):
        continue
      if is_own and entry.name in _OWN:
        continue
      if entry.is_dir(follow_symlinks=False):
        waiting.append((entry.path, depth + 1))
