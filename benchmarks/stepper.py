"""Runs inside a timed program: does one step per line of input.

Uses only the standard library, since peers' environments import it too.
"""

from collections.abc import Callable
import json
import os
import resource
import sys
import time
from typing import Any


def claim_stdout():
  """Returns a stream to the parent and redirects all other output to stderr."""
  stream = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)
  return stream


def cpu_seconds() -> float:
  """Returns the CPU time of this process and its finished children."""
  children = resource.getrusage(resource.RUSAGE_CHILDREN)
  return time.process_time() + children.ru_utime + children.ru_stime


def serve(stream, step: Callable[[], Any], facts: dict[str, Any]) -> None:
  """Does a step per line of stdin; reports the peak memory at its end.

  Args:
    stream: result of claim_stdout, called before any other output.
    step: function that does one step and waits for its result.
    facts: facts to report to the parent first.
  """

  def say(**values):
    print(json.dumps(values), file=stream, flush=True)

  say(**facts)
  for _ in sys.stdin:
    begin = time.perf_counter()
    step()
    say(seconds=time.perf_counter() - begin)
  say(peak_mib=peak_mib())


def peak_mib() -> float:
  """Returns the peak resident memory of this process in MiB.

  This is not ru_maxrss, which a child inherits from its parent.
  """
  with open('/proc/self/status', encoding='ascii') as f:
    for line in f:
      if line.startswith('VmHWM:'):
        return int(line.split()[1]) / 1024
  raise OSError('/proc/self/status has no VmHWM')
