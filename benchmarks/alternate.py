"""Times programs in turns: steps of one, steps of the next, ...

A machine's speed drifts from minute to minute, and what the programs share is
the ratio. Each is a process of its own, so that its peak of memory is its own.
A turn is two steps, and the second counts: in training a step follows a step,
and the first of a turn takes memory that the others' turn has made cold.
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
# Threads of the program before may still spin.
_REST_SECONDS = 0.3
_TURN = 2  # steps


def say(text: str) -> None:
  """Progress; stdout is for the result alone."""
  print(text, file=sys.stderr, flush=True)


def environment(**changes: str) -> dict[str, str]:
  """The variables of a child process that finds this checkout's modules."""
  path = os.pathsep.join(filter(None, (ROOT, changes.pop('path', ''))))
  return {**os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu', **changes}


class Program:
  """A process that does a step when it is told to; see stepper.

  A context manager: the process ends with it.

  Attributes:
    facts: what it said of itself.
    seconds: of each step so far.
  """

  def __init__(self, python: str, module: str, arguments: Mapping[str, Any]):
    """Starts it, and waits until it is ready.

    Args:
      python: the interpreter.
      module: its name, which takes one JSON argument.
      arguments: that argument.

    Raises:
      RuntimeError: it ended; its own message is on stderr.
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
    with contextlib.suppress(BrokenPipeError):  # _read says what happened.
      print(file=self._process.stdin, flush=True)
    self.seconds.append(self._read()['seconds'])

  def finish(self) -> float:
    """Ends the process; returns its peak of resident memory in MiB."""
    self._process.stdin.close()
    peak = self._read()['peak_mib']
    self._process.wait()
    return peak


def run(
  programs: Mapping[str, Program], warm_up: int, rounds: int
) -> dict[str, dict[str, float]]:
  """Does `warm_up` rounds that do not count and `rounds` that do.

  Returns:
    By program 'step_s', the median, and 'peak_mib'.
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
  """Ratios to the fastest and to the leanest peer; {} without peers."""
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
