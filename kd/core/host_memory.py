"""Controls how the process takes memory from the system and returns it."""

import ctypes
import os
import re
import sys

_VARIABLE = 'GLIBC_TUNABLES'
_MEMINFO = '/proc/meminfo'
_NAME = 'glibc.malloc.hugetlb'
# A container's limit and what it uses, in control groups of version 2 and 1.
_GROUPS = (
  ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current'),
  (
    '/sys/fs/cgroup/memory/memory.limit_in_bytes',
    '/sys/fs/cgroup/memory/memory.usage_in_bytes',
  ),
)


def use_large_pages() -> None:
  """Starts this process anew so that its arrays lie in large pages.

  Else a CPU's arrays of gigabytes lie in pages of 4 KiB: a fifth of a step goes
  to taking them and to translating addresses. Only at its start can a process
  tell glibc. The process id stays. Whoever sets
  GLIBC_TUNABLES=glibc.malloc.hugetlb=0 is left alone, and so is what is not
  Linux.
  """
  given = os.environ.get(_VARIABLE, '')
  if sys.platform != 'linux' or _NAME in given:
    return
  # 1: madvise, which takes what is free and never waits for a reserved pool.
  os.environ[_VARIABLE] = ':'.join(filter(None, (given, f'{_NAME}=1')))
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def total_bytes() -> int | None:
  """Returns the memory that processes here can take; None if it is unknown.

  A container may be allowed less than the machine has.
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
  """Returns the memory that processes here can still take.

  Linux alone tells: None elsewhere.
  """
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
  """Returns a control group's number; None for 'max', or without a group."""
  text = _text(path).strip()
  return int(text) if text.isdigit() else None


def _text(path: str) -> str:
  try:
    with open(path, encoding='ascii') as f:
      return f.read()
  except OSError:
    return ''


def peak_bytes() -> int:
  """Returns the most memory that this process has had."""
  import resource  # pylint: disable=g-import-not-at-top; not on all systems

  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024


def give_back() -> None:
  """Returns what malloc holds and nobody uses, where glibc can.

  A compiler leaves hundreds of MiB behind.
  """
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if trim is not None:
    trim(0)
