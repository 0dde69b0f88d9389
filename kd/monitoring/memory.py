"""The memory that this process uses, and the memory that there is."""

import os

import jax

_LIMIT = '/sys/fs/cgroup/memory.max'  # Of a container, version 2.


def in_use() -> dict[str, tuple[int, int]]:
  """Returns (bytes in use, bytes that there are) by kind: host, device.

  What a system does not tell is left out.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  sums = [
    sum(x.get(key, 0) for x in stats) for key in ('bytes_in_use', 'bytes_limit')
  ]
  found = {'host': _host(), 'device': tuple(sums)}
  return {kind: pair for kind, pair in found.items() if pair and pair[1]}


def _host() -> tuple[int, int] | None:
  page = os.sysconf('SC_PAGE_SIZE')
  try:
    with open('/proc/self/statm', encoding='ascii') as f:
      used = int(f.read().split()[1]) * page
  except OSError:  # Linux alone has it.
    return None
  limit = os.sysconf('SC_PHYS_PAGES') * page
  try:
    with open(_LIMIT, encoding='ascii') as f:
      limit = min(limit, int(f.read()))
  except (OSError, ValueError):  # No limit: 'max'.
    pass
  return used, limit
