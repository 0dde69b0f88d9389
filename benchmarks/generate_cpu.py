"""Tokens a second of sampled answers on this CPU, and Hugging Face's.

Two cases, float32: 16 answers of 64 tokens to prompts of 64 by a random model
of 6 layers, and 8 answers by the real Gemma 3 270M to prompts of GSM8K
(--cases=real; KD_DATA_DIR must hold gsm8k/train.jsonl, the weights come with
the peer's environment). What a step of decoding must move is the weights: the
share of the memory's bandwidth that this comes to is measured in the same run.
Prints one line of JSON.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from absl import flags
import numpy as np

from benchmarks import alternate
from benchmarks import environments
from benchmarks import needs
from benchmarks import peer_steps
from benchmarks import results
from benchmarks import steps
from kd.models.gemma3 import config as gemma3_config

_CASES = flags.DEFINE_list('cases', ['random', 'real'], 'What to measure.')

_PEER = 'hugging_face'
_BANDWIDTH = 'bandwidth'
_BANDWIDTH_MIB = 512
_WARM_UP = 1
_RANDOM = gemma3_config.Gemma3Config(
  embed_dim=256,
  mlp_dim=1024,
  num_heads=4,
  num_kv_heads=1,
  head_dim=64,
  vocab_size=32768,
  layer_kinds=gemma3_config.published_kinds(6),
  window=128,
  context=2048,
  query_scale=256.0,
  local_rope_base=10_000.0,
  global_rope_base=1_000_000.0,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)


def run(
  model: Mapping[str, Any],
  prompts: Sequence[Sequence[int]],
  new_tokens: int,
  peers: Sequence[str],
  rounds: int,
  bandwidth_mib: int,
) -> dict[str, Any]:
  """Measures one case.

  Args:
    model: `folder`, or `model` with fields of Gemma3Config.
    prompts: ids of each, of equal length.
    new_tokens: of each answer.
    peers: what ours is compared with: () or (_PEER,).
    rounds: answers to all prompts that are measured.
    bandwidth_mib: of the array that is read to find the memory's bandwidth.

  Returns:
    What the result says of it.
  """
  given = {**model, 'prompts': prompts, 'new_tokens': new_tokens}
  own = lambda dtype: alternate.Program(
    sys.executable, 'benchmarks.own_generate', given | {'dtype': dtype}
  )
  starts = {
    'ours': lambda: own('float32'),
    'ours_bfloat16': lambda: own('bfloat16'),
    **{peer: lambda: _start_peer(given) for peer in peers},
    _BANDWIDTH: lambda: alternate.Program(
      sys.executable, 'benchmarks.bandwidth', {'mib': bandwidth_mib}
    ),
  }
  with contextlib.ExitStack() as stack:
    programs = {}
    for name, start in starts.items():
      alternate.say(f'starting {name}')
      programs[name] = stack.enter_context(start())
    facts = {name: program.facts for name, program in programs.items()}
    measured = alternate.run(programs, _WARM_UP, rounds)
  limit = facts.pop(_BANDWIDTH)['gb'] / measured.pop(_BANDWIDTH)['step_s']
  count = facts['ours']['parameters']
  if any(fact['parameters'] != count for fact in facts.values()):
    raise RuntimeError(f'models of different sizes: {facts}')
  for name, numbers in measured.items():
    numbers['tokens_per_s'] = len(prompts) * new_tokens / numbers['step_s']
    size = 2 if name == 'ours_bfloat16' else 4
    moved = 1e-9 * count * size * new_tokens / numbers['step_s']
    numbers['bandwidth_share'] = moved / limit
  return {
    'batch': len(prompts),
    'prompt_tokens': len(prompts[0]),
    'new_tokens': new_tokens,
    'parameters': count,
    'programs': measured,
    'bandwidth_gb_per_s': limit,
    **alternate.compare(measured, 'ours', list(peers)),
  }


def _start_peer(given):
  given = dict(given)
  if 'model' in given:
    config = gemma3_config.Gemma3Config(**given['model'])
    given['model'] = peer_steps.hugging_face(config)
  python = environments.python('peers_trl')
  return alternate.Program(python, 'benchmarks.peers.hf_generate', given)


def _random(peers, rounds):
  ids = np.random.default_rng(0).integers(3, _RANDOM.vocab_size, (16, 64))
  model = {'model': dataclasses.asdict(_RANDOM)}
  return run(model, ids.tolist(), 64, peers, rounds, _BANDWIDTH_MIB)


def _real(peers, rounds):
  batch, length, new_tokens = 8, 64, 32
  with tempfile.TemporaryDirectory() as work:
    folder = os.path.join(work, 'hf')
    alternate.say('writing the weights for all programs')
    done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.real_model']
      + [needs.gguf(), needs.gsm8k(), folder, str(batch * length)],
      check=True,
      text=True,
      stdout=subprocess.PIPE,
      env=alternate.environment(),
    )
    ids = json.loads(done.stdout.splitlines()[-1])
    prompts = [ids[i * length : (i + 1) * length] for i in range(batch)]
    model = {'folder': folder}
    return run(model, prompts, new_tokens, peers, rounds, _BANDWIDTH_MIB)


_MEASURES = {'random': _random, 'real': _real}


def main():
  """Prints the result."""
  needs.choice('--cases', _CASES.value, list(_MEASURES))
  peers = steps.peers({_PEER: 'peers_trl'})
  if 'real' in _CASES.value:
    needs.gsm8k()
    needs.weights()
  found = {
    case: _MEASURES[case](peers, steps.ROUNDS.value) for case in _CASES.value
  }
  results.show({'benchmark': 'generate_cpu', **found})


if __name__ == '__main__':
  needs.start(main)
