"""Compares a whole on-policy step on this CPU with TRL's trainer.

The student samples 64 tokens for each of 8 prompts of 64, the teacher scores
them, and the student takes an AdamW step on the reverse KL: random models,
float32, sizes as in step_cpu. The peer is TRL's DistillationTrainer, which runs
its steps in its own loop. Prints one line of JSON: seconds, sampled tokens per
second and peak memory of each.
"""

from collections.abc import Sequence
import contextlib
import sys
from typing import Any

import numpy as np

from benchmarks import alternate
from benchmarks import environments
from benchmarks import needs
from benchmarks import own_step
from benchmarks import peer_steps
from benchmarks import results
from benchmarks import step_cpu
from benchmarks import steps
from kd.models.gemma3 import config as gemma3_config

_TRL = 'trl'
_PEERS = {_TRL: 'peers_trl'}
_WARM_UP = 2
_PROMPTS, _LENGTH, _NEW_TOKENS = 8, 64, 64


def run(
  student: gemma3_config.Gemma3Config,
  teacher: gemma3_config.Gemma3Config,
  prompts: Sequence[Sequence[int]],
  new_tokens: int,
  peers: Sequence[str],
  rounds: int,
) -> dict[str, Any]:
  """Measures and returns the result.

  Args:
    student: config of the student.
    teacher: config of the teacher.
    prompts: token ids of each prompt, of equal length, one per row of a step.
    new_tokens: number of tokens in each answer.
    peers: [] or [_TRL].
    rounds: number of measured steps.

  Raises:
    RuntimeError: a program ended, or the models differ in size.
  """
  given = {'prompts': prompts, 'new_tokens': new_tokens}
  models = {'student': student, 'teacher': teacher}
  own = {name: own_step.fields(config) for name, config in models.items()}
  theirs = {n: peer_steps.hugging_face(config) for n, config in models.items()}
  with contextlib.ExitStack() as stack:
    programs = {}
    for name in (steps.OURS, *peers):
      alternate.say(f'starting {name}')
      if name == steps.OURS:
        program = alternate.Program(
          sys.executable, 'benchmarks.own_on_policy', given | own
        )
      else:
        program = alternate.Program(
          environments.python(_PEERS[name]),
          'benchmarks.peers.trl_on_policy',
          given | theirs,
        )
      programs[name] = stack.enter_context(program)
    facts = {name: program.facts for name, program in programs.items()}
    sizes = facts[steps.OURS]['parameters']
    if any(fact['parameters'] != sizes for fact in facts.values()):
      raise RuntimeError(f'models of different sizes: {facts}')
    measured = alternate.run(programs, _WARM_UP, rounds)
  for numbers in measured.values():
    numbers['tokens_per_s'] = len(prompts) * new_tokens / numbers['step_s']
  return {
    'benchmark': 'on_policy_cpu',
    'prompts': len(prompts),
    'prompt_tokens': len(prompts[0]),
    'new_tokens': new_tokens,
    'vocab_size': student.vocab_size,
    'parameters': dict(zip(models, sizes, strict=True)),
    'programs': measured,
    **alternate.compare(measured, steps.OURS, list(peers)),
  }


def main():
  """Prints the result."""
  rng = np.random.default_rng(0)
  vocab_size = step_cpu.STUDENT.vocab_size
  prompts = rng.integers(3, vocab_size, (_PROMPTS, _LENGTH)).tolist()
  peers = steps.peers(_PEERS)
  results.show(
    run(
      *(step_cpu.STUDENT, step_cpu.TEACHER, prompts, _NEW_TOKENS),
      *(peers, steps.ROUNDS.value),
    )
  )


if __name__ == '__main__':
  needs.start(main)
