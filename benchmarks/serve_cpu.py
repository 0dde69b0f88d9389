"""Compares tokens per second of kd's and llama.cpp's servers on this CPU.

1, 4 and 16 concurrent HTTP requests (--concurrency) with prompts of 64 tokens
and answers of 32 tokens by the real Gemma 3 270M, in float32 and Q8_0. Both
servers have the same weights and are measured alternately. KD_DATA_DIR must
contain gsm8k/train.jsonl. Prints one line of JSON.
"""

from collections.abc import Mapping, Sequence
import contextlib
import json
import os
import sys
import tempfile
from typing import Any

from absl import flags

from benchmarks import alternate
from benchmarks import environments
from benchmarks import generate_cpu
from benchmarks import needs
from benchmarks import results
from benchmarks import steps

_CONCURRENCY = flags.DEFINE_list(
  'concurrency',
  ['1', '4', '16'],
  'Numbers of concurrent requests, one case each.',
)
_LLAMA = 'llama_cpp'
_TYPES = ('F32', 'Q8_0')
_LENGTH, _NEW_TOKENS = 64, 32
_WARM_UP = 1


def run(
  folder: str,
  prompts: Sequence[Sequence[int]],
  new_tokens: int,
  peers: Sequence[str],
  rounds: int,
  types: Sequence[str] = _TYPES,
) -> dict[str, Any]:
  """Measures one case.

  Args:
    folder: Hugging Face folder; for llama.cpp with a file TYPE.gguf per type.
    prompts: token ids of each prompt; all are requested at the same time.
    new_tokens: number of tokens in each answer.
    peers: () or ('llama_cpp',).
    rounds: number of measured batches of answers.
    types: types of the weights, names from generate_cpu.TYPES.

  Returns:
    Tokens per second of each server and type of weights, and their ratios.
  """
  given = {'prompts': prompts, 'new_tokens': new_tokens}
  starts = {}
  for kind in types:
    schemes = generate_cpu.TYPES[kind]
    starts[f'ours_{kind}'] = (
      *(sys.executable, 'benchmarks.own_serve'),
      {**given, 'folder': folder, 'schemes': schemes},
    )
    if _LLAMA in peers:
      starts[f'{_LLAMA}_{kind}'] = (
        *(environments.python('oracles'), 'benchmarks.peers.llama_generate'),
        {**given, 'file': os.path.join(folder, f'{kind}.gguf')},
      )
  with contextlib.ExitStack() as stack:
    programs = {}
    for name, start in starts.items():
      alternate.say(f'starting {name}')
      programs[name] = stack.enter_context(alternate.Program(*start))
    counts = {p.facts['parameters'] for p in programs.values()}
    if len(counts) > 1:
      raise RuntimeError(f'models of different sizes: {counts}')
    measured = alternate.run(programs, _WARM_UP, rounds)
  speeds = {
    name: len(prompts) * new_tokens / numbers['step_s']
    for name, numbers in measured.items()
  }
  return {
    'concurrency': len(prompts),
    'tokens_per_s': speeds,
    'to_llama_cpp': _ratios(speeds, types),
  }


def _ratios(speeds: Mapping[str, float], types: Sequence[str]):
  return {
    kind: speeds[f'ours_{kind}'] / speeds[f'{_LLAMA}_{kind}']
    for kind in types
    if f'{_LLAMA}_{kind}' in speeds
  }


def _case(concurrency: int, peers: Sequence[str], rounds: int):
  with tempfile.TemporaryDirectory() as work:
    folder = os.path.join(work, 'hf')
    alternate.say('writing the weights for both servers')
    ids = json.loads(
      generate_cpu.script(
        *('real_model', needs.gguf(), needs.gsm8k(), folder),
        str(concurrency * _LENGTH),
      ).splitlines()[-1]
    )
    if peers:
      generate_cpu.script('real_gguf', needs.gguf(), folder, *_TYPES)
    starts = range(0, concurrency * _LENGTH, _LENGTH)
    prompts = [ids[i : i + _LENGTH] for i in starts]
    return run(folder, prompts, _NEW_TOKENS, peers, rounds)


def main():
  """Prints the result."""
  needs.choice('--concurrency', _CONCURRENCY.value, ['1', '4', '16'])
  peers = steps.peers({_LLAMA: 'oracles'})
  needs.gsm8k()
  needs.weights()
  results.show(
    {
      'benchmark': 'serve_cpu',
      'cases': [
        _case(int(c), peers, steps.ROUNDS.value) for c in _CONCURRENCY.value
      ],
    }
  )


if __name__ == '__main__':
  needs.start(main)
