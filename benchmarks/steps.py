"""Measures our own step beside peers' and beside the machine's limit."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
import sys
from typing import Any

from absl import app
from absl import flags

from benchmarks import alternate

PEERS = flags.DEFINE_list(
  'peers', None, "What to run beside ours, '' for nothing; by default all."
)
ROUNDS = flags.DEFINE_integer('rounds', 8, 'Steps that are measured.')

_WARM_UP = 2
OURS, LIMIT = 'ours', 'matmul'


def peers(known: Sequence[str]) -> list[str]:
  """The peers that --peers asks for.

  Raises:
    app.UsageError: one is not known.
  """
  if PEERS.value is None:
    return list(known)
  for peer in PEERS.value:
    if peer not in known:
      raise app.UsageError(f'unknown peer {peer!r}; known: {list(known)}')
  return PEERS.value


def measure(
  own_arguments: Mapping[str, Any],
  peers: Mapping[str, Callable[[], alternate.Program]],
  matmul_size: int,
  rounds: int,
  gflop: Mapping[str, float],
) -> dict[str, Any]:
  """Alternates all programs and says what ours is beside the others.

  Args:
    own_arguments: of own_step.
    peers: by name, what starts one.
    matmul_size: of the matrices whose product is the limit.
    rounds: steps that are measured.
    gflop: of a step on paper, by part, in 1e9 operations.

  Returns:
    What a result says of the programs.

  Raises:
    RuntimeError: a program ended, or the models are not of one size.
  """
  own = functools.partial(alternate.Program, sys.executable)
  starts = {
    OURS: lambda: own('benchmarks.own_step', own_arguments),
    **peers,
    LIMIT: lambda: own('benchmarks.matmul', {'size': matmul_size}),
  }
  with contextlib.ExitStack() as stack:
    programs = {}
    for name, start in starts.items():
      alternate.say(f'starting {name}')
      programs[name] = stack.enter_context(start())
    facts = {name: program.facts for name, program in programs.items()}
    limit = facts.pop(LIMIT)
    sizes = facts[OURS]['parameters']
    if any(fact['parameters'] != sizes for fact in facts.values()):
      raise RuntimeError(f'models of different sizes: {facts}')
    measured = alternate.run(programs, _WARM_UP, rounds)
  best = limit['gflop'] / measured.pop(LIMIT)['step_s']
  tokens = sum(len(row) for row in own_arguments['tokens'])
  for numbers in measured.values():
    numbers['tokens_per_s'] = tokens / numbers['step_s']
  reached = sum(gflop.values()) / measured[OURS]['step_s']
  return {
    'parameters': dict(zip(('student', 'teacher'), sizes, strict=True)),
    'programs': measured,
    **alternate.compare(measured, OURS, list(peers)),
    'step_gflop': dict(gflop),
    'limit_gflop_per_s': best,
    'limit_share': reached / best,
  }
