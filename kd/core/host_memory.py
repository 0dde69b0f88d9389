"""Controls and reports the memory of the process and its machine."""

import ctypes
import os
import re
import sys

_VARIABLE = 'GLIBC_TUNABLES'
_MEMINFO = '/proc/meminfo'
_NAME = 'glibc.malloc.hugetlb'
# Memory limit and usage of a container, in control groups of version 2 and 1.
_GROUPS = (
  ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current'),
  (
    '/sys/fs/cgroup/memory/memory.limit_in_bytes',
    '/sys/fs/cgroup/memory/memory.usage_in_bytes',
  ),
)


def use_large_pages() -> None:
  """Restarts this process so that its arrays are in large pages.

  With the default pages of 4 KiB, a CPU spends a fifth of a step on allocating
  pages and translating addresses for arrays of gigabytes. glibc reads the
  setting only when a process starts. The process id stays the same. Nothing
  changes if GLIBC_TUNABLES sets glibc.malloc.hugetlb, or outside Linux.
  """
  given = os.environ.get(_VARIABLE, '')
  if sys.platform != 'linux' or _NAME in given:
    return
  # 1: madvise, which uses free large pages and needs no reserved pool.
  os.environ[_VARIABLE] = ':'.join(filter(None, (given, f'{_NAME}=1')))
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def total_bytes() -> int | None:
  """Returns the memory available to processes here; None if unknown.

  The limit of a container may be below the memory of the machine.
  """
  try:
    machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  except (ValueError, OSError):  # Not on this system.
    return None
  for path, _ in _GROUPS:
    limit = _number(path)
    if limit is not None:
      return min(machine, limit)
  return machine


def free_bytes() -> int | None:
  """Returns the free memory; None on systems other than Linux."""
  available = re.search(r'^MemAvailable: +(\d+) kB$', _text(_MEMINFO), re.M)
  if not available:
    return None
  free = int(available[1]) * 1024
  for group in _GROUPS:
    limit, used = map(_number, group)
    if limit is not None and used is not None:
      return min(free, limit - used)
  return free


def _number(path: str) -> int | None:
  """Returns a control group's number; None for 'max' or a missing file."""
  text = _text(path).strip()
  return int(text) if text.isdigit() else None


def _text(path: str) -> str:
  try:
    with open(path, encoding='ascii') as f:
      return f.read()
  except OSError:
    return ''


def peak_bytes() -> int:
  """Returns the peak memory of this process."""
  import resource  # pylint: disable=g-import-not-at-top; not on all systems

  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024


def trim() -> None:
  """Returns unused memory of malloc to the system, if glibc supports it.

  A compilation leaves hundreds of MiB behind.
  """
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if trim is not None:
    trim(0)
