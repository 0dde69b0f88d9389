"""Finds workdirs below folders."""

from collections.abc import Iterator, Sequence
import os

from kd.board import run_files
from kd.core import errors
from kd.run import outputs

# Folders of a workdir that hold no other workdir.
_OWN = frozenset(
  {'checkpoints', 'profile', 'damaged-checkpoints', 'traces', 'search'}
  | {outputs.BASELINE, outputs.EVALUATIONS}
)
_DEEPEST = 8
_MOST = 100_000  # Folders that are looked at below one.


def workdirs(roots: Sequence[str]) -> dict[str, str]:
  """Returns the workdirs at and below folders, by the runs' names.

  A run's name is its path from the folder that was given; of several folders,
  the folder's own name comes first.

  Args:
    roots: folders.

  Raises:
    ConfigError: one is no folder, or cannot be read.
  """
  found: dict[str, str] = {}
  for root in roots:
    _check(root)
    # normpath first: '.' and 'runs/' have no name.
    base = os.path.normpath(os.path.abspath(root))
    for folder in _below(base):
      name = os.path.relpath(folder, base)
      if name == '.':
        name = os.path.basename(base)
      elif len(roots) > 1:
        name = os.path.join(os.path.basename(base), name)
      if found.get(name, folder) != folder:
        name = folder
      found[name] = folder
  return dict(sorted(found.items()))


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


def _below(base: str) -> Iterator[str]:
  """Yields the workdirs at and below a folder; links are not followed."""
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
    is_workdir = not names.isdisjoint(run_files.MARKS)
    if is_workdir:
      yield folder
    if depth == _DEEPEST:
      continue
    for entry in listed:
      if entry.name.startswith('.') or (is_workdir and entry.name in _OWN):
        continue
      if entry.is_dir(follow_symlinks=False):
        waiting.append((entry.path, depth + 1))
