"""Measures our step, the steps of peers and the machine's limit."""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import sys
from typing import Any

from absl import flags

from benchmarks import alternate
from benchmarks import needs

PEERS = flags.DEFINE_list(
  'peers',
  None,
  "Peers to run in addition to ours; '' for none. All by default.",
)
ROUNDS = flags.DEFINE_integer(
  'rounds', 8, 'Number of measured steps.', lower_bound=1
)

_WARM_UP = 2
OURS, LIMIT = 'ours', 'matmul'


def peers(environment_of: Mapping[str, str]) -> list[str]:
  """Returns the peers selected by --peers.

  Args:
    environment_of: environment of each peer of the benchmark.

  Raises:
    ConfigError: a peer is unknown, or its environment is missing.
  """
  known = list(environment_of)
  chosen = known if PEERS.value is None else PEERS.value
  needs.choice('--peers', chosen, known)
  for name in dict.fromkeys(environment_of[peer] for peer in chosen):
    needs.environment(name, needs.MODULES[name], without='--peers=')
  return chosen


@dataclasses.dataclass(frozen=True)
class Own:
  """A variant of our step.

  Attributes:
    arguments: argument of own_step.
    flops: operations of each part of the step, by formula.
  """

  arguments: Mapping[str, Any]
  flops: Mapping[str, int]


def measure(
  own: Mapping[str, Own],
  peers: Mapping[str, Callable[[], alternate.Program]],
  matmul_size: int,
  rounds: int,
) -> dict[str, Any]:
  """Runs all programs alternately and compares ours with the peers.

  Args:
    own: our steps by name. Peers are compared with OURS.
    peers: functions that start the peers, by name.
    matmul_size: size of the square matrices whose product is the limit.
    rounds: number of measured steps.

  Returns:
    The part of a benchmark's result that describes the programs.

  Raises:
    RuntimeError: a program ended, or the models differ in size.
  """
  start_own = functools.partial(
    functools.partial, alternate.Program, sys.executable
  )
  starts = {
    **{
      n: start_own('benchmarks.own_step', o.arguments) for n, o in own.items()
    },
    **peers,
    LIMIT: start_own('benchmarks.matmul', {'size': matmul_size}),
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
  tokens = sum(len(row) for row in own[OURS].arguments['tokens'])
  for numbers in measured.values():
    numbers['tokens_per_s'] = tokens / numbers['step_s']
  gflop = {
    name: {part: 1e-9 * count for part, count in one.flops.items()}
    for name, one in own.items()
  }
  reached = sum(gflop[OURS].values()) / measured[OURS]['step_s']
  return {
    'parameters': dict(zip(('student', 'teacher'), sizes, strict=True)),
    'programs': measured,
    **alternate.compare(measured, OURS, list(peers)),
    'step_gflop': gflop,
    'limit_gflop_per_s': best,
    'limit_share': reached / best,
  }
