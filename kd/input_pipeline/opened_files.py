"""Records the files that Python code opens while a user's task runs.

A task whose source is a function may read any files without declaring them to
seqio. Files opened with Python's `open` and patterns listed with `glob` are
recorded here, but not those that TensorFlow or other libraries open natively.
"""

from collections.abc import Iterator
import contextlib
import functools
import glob
import os
import sys

from kd.core import user_errors
from kd.data_files import locations

_IGNORED = ('/proc/', '/sys/', '/dev/', '/etc/', '/usr/lib/', '/usr/share/')
_IGNORED_KINDS = ('.py', '.pyc', '.so', '.pth')


class _Notes:
  """Records opened files while `active`."""

  def __init__(self):
    self.active = False
    self.read: set[str] = set()
    self.written: set[str] = set()

  def hook(self, event: str, arguments: tuple) -> None:
    """Receives Python's audit events; must never raise."""
    if not self.active or event not in ('open', 'glob.glob'):
      return
    try:
      path = os.path.abspath(os.fsdecode(arguments[0]))
    except (TypeError, ValueError, OSError):
      return  # A file descriptor, or a folder that is gone.
    if event == 'glob.glob':
      self.read.add(path)
      return
    if os.path.isdir(path):  # To lock or sync it.
      return
    flags = arguments[2]
    reads = isinstance(flags, int) and flags & os.O_ACCMODE == os.O_RDONLY
    (self.read if reads else self.written).add(glob.escape(path))


@functools.cache
def _notes() -> _Notes:
  notes = _Notes()
  sys.addaudithook(notes.hook)  # Cannot be removed.
  return notes


@functools.cache
def _of_module(module: str) -> set[str]:
  """Returns the set of files that a module has opened so far.

  Cumulative, since the module may cache their contents between calls.
  """
  del module
  return set()


@contextlib.contextmanager
def watched(module: str) -> Iterator['_Notes']:
  """Records the files that are opened for a module's tasks in the context.

  Args:
    module: name of the module.

  Yields:
    An object whose attribute `active` can pause the recording.
  """
  notes = _notes()
  notes.read.clear()
  notes.written.clear()
  notes.active = True
  try:
    yield notes
  finally:
    notes.active = False
    _of_module(module).update(filter(_counts, notes.read - notes.written))


def forget(path: str) -> None:
  """Removes an opened file that is recorded elsewhere."""
  _notes().read.discard(glob.escape(path))


def files_of(module: str) -> list[str]:
  """Returns patterns of the files that a module has opened so far.

  They are glob patterns, or for files in a bucket as in locations.patterns.
  """
  return sorted(map(locations.remote_pattern, _of_module(module)))


def _counts(pattern: str) -> bool:
  if pattern.startswith(_IGNORED) or pattern.endswith(_IGNORED_KINDS):
    return False
  return not user_errors.is_installed(pattern)
