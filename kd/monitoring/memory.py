"""Measures the memory of this process, its host and its devices."""

import os

import jax

from kd.core import host_memory


def in_use() -> dict[str, tuple[int, int]]:
  """Returns (bytes in use, total bytes) by kind: host, device.

  Kinds that the system does not report are omitted.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  sums = [
    sum(x.get(key, 0) for x in stats) for key in ('bytes_in_use', 'bytes_limit')
  ]
  pairs = {'host': _host(), 'device': tuple(sums)}
  return {kind: pair for kind, pair in pairs.items() if pair and pair[1]}


def _host() -> tuple[int, int] | None:
  try:
    with open('/proc/self/statm', encoding='ascii') as f:
      used = int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
  except OSError:  # Only Linux has this file.
    return None
  return used, host_memory.total_bytes() or 0
