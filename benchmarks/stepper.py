"""The side of a timed program: does a step whenever a line comes in.

Uses the standard library only: peers' Pythons run it too.
"""

from collections.abc import Callable
import json
import os
import resource
import sys
import time
from typing import Any


def claim_stdout():
  """Returns a stream to the parent; whatever else is printed goes to stderr."""
  stream = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)
  return stream


def cpu_seconds() -> float:
  """Returns the CPU time of this process and of those that it waited for."""
  children = resource.getrusage(resource.RUSAGE_CHILDREN)
  return time.process_time() + children.ru_utime + children.ru_stime


def serve(stream, step: Callable[[], Any], facts: dict[str, Any]) -> None:
  """Answers lines of stdin with steps, and its end with the peak of memory.

  Args:
    stream: from claim_stdout, called before anything that may print.
    step: does one step, and returns when its result is there.
    facts: what the parent should know first.
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
  """Largest resident memory of this process since it was started, MiB.

  Not ru_maxrss, which a child takes over from its parent.
  """
  with open('/proc/self/status', encoding='ascii') as f:
    for line in f:
      if line.startswith('VmHWM:'):
        return int(line.split()[1]) / 1024
  raise OSError('/proc/self/status has no VmHWM')
