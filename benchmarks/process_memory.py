"""Measures the memory of a process and its descendants while it runs."""

import contextlib
import os
import subprocess
import threading

_EVERY_S = 0.25


def _parents() -> dict[int, int]:
  """Returns the parent of each process by process id."""
  parents = {}
  for name in os.listdir('/proc'):
    if name.isdigit():
      with contextlib.suppress(OSError), open(f'/proc/{name}/stat') as f:
        # The second field is a name in parentheses with any characters.
        parents[int(name)] = int(f.read().rpartition(')')[2].split()[1])
  return parents


def _bytes(pid: int) -> int:
  """Returns the memory of a process with its share of shared pages."""
  with contextlib.suppress(OSError), open(f'/proc/{pid}/smaps_rollup') as f:
    for line in f:
      if line.startswith('Pss:'):
        return int(line.split()[1]) << 10
  return 0


def tree_bytes(pid: int) -> int:
  """Returns the memory of a process and its descendants in bytes."""
  parents = _parents()
  tree = {pid}
  while more := {p for p, up in parents.items() if up in tree} - tree:
    tree |= more
  return sum(map(_bytes, tree))


def run(command: list[str], **options) -> tuple[str, int]:
  """Returns a program's output and its peak memory in bytes.

  Args:
    command: the program with its arguments.
    **options: options of subprocess.Popen.
  """
  process = subprocess.Popen(
    command, stdout=subprocess.PIPE, text=True, **options
  )
  ended, peak = threading.Event(), [0]

  def watch():
    while not ended.wait(_EVERY_S):
      peak[0] = max(peak[0], tree_bytes(process.pid))

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    text, _ = process.communicate()
  finally:
    ended.set()
    thread.join()
  if process.returncode:
    raise subprocess.CalledProcessError(process.returncode, command)
  return text, peak[0]
