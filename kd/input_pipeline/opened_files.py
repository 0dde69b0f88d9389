"""The files that Python code opens, noted while a user's task runs.

A task whose source is a function may read any file without telling seqio. What
the function opens through Python's `open`, and lists through `glob`, is seen
here; what TensorFlow or another library opens by itself is not.
"""

from collections.abc import Iterator
import contextlib
import functools
import glob
import os
import sys

from kd.core import user_errors

_IGNORED = ('/proc/', '/sys/', '/dev/', '/etc/', '/usr/lib/', '/usr/share/')
_IGNORED_KINDS = ('.py', '.pyc', '.so', '.pth')


class _Notes:
  """What is opened, while `active`."""

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
    flags = arguments[2]
    reads = isinstance(flags, int) and flags & os.O_ACCMODE == os.O_RDONLY
    (self.read if reads else self.written).add(glob.escape(path))


@functools.cache
def _notes() -> _Notes:
  notes = _Notes()
  sys.addaudithook(notes.hook)  # Stays for the life of the process.
  return notes


@functools.cache
def _of_module(module: str) -> set[str]:
  """What a module's code opened so far: it may keep it for its next call."""
  del module
  return set()


@contextlib.contextmanager
def watched(module: str) -> Iterator['_Notes']:
  """Within it, notes what is opened for the tasks of a module.

  Args:
    module: the module's name.

  Yields:
    An object whose `active` may be set to False meanwhile.
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
  """Forgets a file that was opened and is noted elsewhere."""
  _notes().read.discard(glob.escape(path))


def by(module: str) -> list[str]:
  """Returns the glob patterns of what a module's code has opened so far."""
  return sorted(_of_module(module))


def _counts(pattern: str) -> bool:
  if pattern.startswith(_IGNORED) or pattern.endswith(_IGNORED_KINDS):
    return False
  return not user_errors.is_installed(pattern)
