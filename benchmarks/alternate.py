"""Times programs alternately: steps of one, steps of the next, ...

A machine's speed drifts from minute to minute; alternating makes the ratios
robust to that. Each program is a separate process with its own peak memory. A
turn is two steps, of which only the second counts: in training steps follow
each other, but the first step of a turn starts with cold caches.
"""

from collections.abc import Mapping, Sequence
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Threads of the previous program may still spin.
_REST_SECONDS = 0.3
_TURN = 2  # steps


def say(text: str) -> None:
  """Prints progress to stderr; stdout is only for the result."""
  print(text, file=sys.stderr, flush=True)


def environment(**changes: str) -> dict[str, str]:
  """Returns environment variables for a child that imports this checkout."""
  path = os.pathsep.join(filter(None, (ROOT, changes.pop('path', ''))))
  return {**os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu', **changes}


class Program:
  """A process that does one step per request; see stepper.

  Use it as a context manager, which kills the process on exit.

  Attributes:
    facts: facts that the process reported at its start.
    seconds: duration of each step so far.
  """

  def __init__(self, python: str, module: str, arguments: Mapping[str, Any]):
    """Starts the process and waits until it is ready.

    Args:
      python: path of the interpreter.
      module: name of the module to run, which takes one JSON argument.
      arguments: value of that argument.

    Raises:
      RuntimeError: the process ended; its own message is on stderr.
    """
    self._name = module
    self._process = subprocess.Popen(
      [python, '-m', module, json.dumps(arguments)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=environment(),
    )
    self.facts = self._read()
    self.seconds = []

  def __enter__(self) -> 'Program':
    return self

  def __exit__(self, *error) -> None:
    self._process.kill()
    self._process.wait()

  def _read(self):
    line = self._process.stdout.readline()
    if not line:
      code = self._process.wait()
      raise RuntimeError(f'{self._name} ended with {code}')
    return json.loads(line)

  def step(self) -> None:
    """Does and times one step."""
    with contextlib.suppress(BrokenPipeError):  # _read raises a better error.
      print(file=self._process.stdin, flush=True)
    self.seconds.append(self._read()['seconds'])

  def finish(self) -> float:
    """Ends the process and returns its peak resident memory in MiB."""
    self._process.stdin.close()
    peak = self._read()['peak_mib']
    self._process.wait()
    return peak


def run(
  programs: Mapping[str, Program], warm_up: int, rounds: int
) -> dict[str, dict[str, float]]:
  """Runs `warm_up` rounds that do not count and `rounds` that do.

  Returns:
    'step_s' (the median) and 'peak_mib' by program.
  """
  for number in range(warm_up + rounds):
    for name, program in programs.items():
      for _ in range(_TURN):
        program.step()
      say(f'round {number} {name} {program.seconds[-1]:.3f} s')
      time.sleep(_REST_SECONDS)
  return {
    name: {
      'step_s': statistics.median(
        program.seconds[_TURN - 1 :: _TURN][warm_up:]
      ),
      'peak_mib': program.finish(),
    }
    for name, program in programs.items()
  }


def compare(
  measured: Mapping[str, Mapping[str, float]], ours: str, peers: Sequence[str]
) -> dict[str, Any]:
  """Returns ratios to the fastest and the leanest peer; {} without peers."""
  if not peers:
    return {}
  fastest = min(peers, key=lambda p: measured[p]['step_s'])
  leanest = min(peers, key=lambda p: measured[p]['peak_mib'])
  return {
    'fastest_peer': fastest,
    'speed_ratio': measured[fastest]['step_s'] / measured[ours]['step_s'],
    'leanest_peer': leanest,
    'memory_ratio': (
      measured[ours]['peak_mib'] / measured[leanest]['peak_mib']
    ),
  }
