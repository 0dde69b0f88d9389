"""Compares tokens per second of sampling on this CPU with other programs.

Three cases: 16 answers of 64 tokens to prompts of 64 by a random model of 6
layers, in float32; and 1 and 8 answers of 32 tokens by the real Gemma 3 270M to
prompts of GSM8K, in float32, Q8_0 and Q4_0 (--cases=real_1,real_8; KD_DATA_DIR
must contain gsm8k/train.jsonl, the weights come with a peer's environment). The
peers are Hugging Face in float32 and llama.cpp in all three types. A decoding
step reads all weights; the fraction of the memory bandwidth that this takes is
measured in the same run. Prints one line of JSON.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import functools
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

_CASES = flags.DEFINE_list(
  'cases', ['random', 'real_1', 'real_8'], 'Cases to measure.'
)

_HF, _LLAMA = 'hugging_face', 'llama_cpp'
_PEERS = {_HF: 'peers_trl', _LLAMA: 'oracles'}
# kd's storage schemes by the equivalent GGUF type.
TYPES = {
  'F32': {},
  'Q8_0': {'weights': 'q8_0', 'tables': 'q8_0'},
  'Q4_0': {'weights': 'q4_0', 'tables': 'q8_0'},
}
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
  types: Sequence[str] = ('F32',),
) -> dict[str, Any]:
  """Measures one case.

  Args:
    model: `folder`, or `model` with fields of Gemma3Config.
    prompts: token ids of each prompt, of equal length.
    new_tokens: number of tokens in each answer.
    peers: names from _PEERS to compare with. For llama.cpp the folder contains
      a file TYPE.gguf for each type.
    rounds: number of measured batches of answers.
    bandwidth_mib: size of the array that measures the memory bandwidth.
    types: types of the weights, names from TYPES.

  Returns:
    The entry of the case in the printed result.
  """
  given = {'prompts': prompts, 'new_tokens': new_tokens}
  starts = _own({**model, **given}, types)
  if _HF in peers:
    starts[_HF] = lambda: _start_hf({**model, **given})
  if _LLAMA in peers:
    starts |= _llama(model['folder'], given, types)
  starts[_BANDWIDTH] = lambda: alternate.Program(
    sys.executable, 'benchmarks.bandwidth', {'mib': bandwidth_mib}
  )
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
    moved = 1e-9 * facts[name]['weight_bytes'] * new_tokens / numbers['step_s']
    numbers['bandwidth_share'] = moved / limit
  return {
    'batch': len(prompts),
    'prompt_tokens': len(prompts[0]),
    'new_tokens': new_tokens,
    'parameters': count,
    'programs': measured,
    'bandwidth_gb_per_s': limit,
    **alternate.compare(measured, 'ours', [_HF] if _HF in peers else []),
    **({'to_llama_cpp': _to_llama(measured, types)} if _LLAMA in peers else {}),
  }


def _own_name(kind):
  return 'ours' if kind == 'F32' else f'ours_{kind}'


def _own(given, types):
  """Returns functions that start our sampler with weights of each type."""
  own = lambda dtype, schemes: alternate.Program(
    sys.executable,
    'benchmarks.own_generate',
    {**given, 'dtype': dtype, 'schemes': schemes},
  )
  return {
    **{
      _own_name(kind): functools.partial(own, 'float32', TYPES[kind])
      for kind in types
    },
    'ours_bfloat16': functools.partial(own, 'bfloat16', {}),
  }


def _llama(folder, given, types):
  """Returns functions that start llama.cpp with weights of each type."""
  start = lambda kind: alternate.Program(
    environments.python('oracles'),
    'benchmarks.peers.llama_generate',
    {**given, 'file': os.path.join(folder, f'{kind}.gguf')},
  )
  return {f'{_LLAMA}_{kind}': functools.partial(start, kind) for kind in types}


def _to_llama(measured, types):
  """Returns the ratio of our tokens per second to llama.cpp's, by type."""
  speed = lambda name: measured[name]['tokens_per_s']
  return {
    kind: speed(_own_name(kind)) / speed(f'{_LLAMA}_{kind}') for kind in types
  }


def _start_hf(given):
  given = dict(given)
  if 'model' in given:
    config = gemma3_config.Gemma3Config(**given['model'])
    given['model'] = peer_steps.hugging_face(config)
  python = environments.python('peers_trl')
  return alternate.Program(python, 'benchmarks.peers.hf_generate', given)


def _random(peers, rounds):
  ids = np.random.default_rng(0).integers(3, _RANDOM.vocab_size, (16, 64))
  model = {'model': dataclasses.asdict(_RANDOM)}
  peers = [peer for peer in peers if peer == _HF]
  return run(model, ids.tolist(), 64, peers, rounds, _BANDWIDTH_MIB)


def _real(batch, peers, rounds):
  length, new_tokens, types = 64, 32, list(TYPES)
  with tempfile.TemporaryDirectory() as work:
    folder = os.path.join(work, 'hf')
    alternate.say('writing the weights for all programs')
    done = script(
      'real_model', needs.gguf(), needs.gsm8k(), folder, str(batch * length)
    )
    if _LLAMA in peers:
      script('real_gguf', needs.gguf(), folder, *types)
    ids = json.loads(done.splitlines()[-1])
    prompts = [ids[i * length : (i + 1) * length] for i in range(batch)]
    model = {'folder': folder}
    return run(model, prompts, new_tokens, peers, rounds, _BANDWIDTH_MIB, types)


def script(name, *arguments):
  """Returns the output of a script in this folder."""
  done = subprocess.run(
    [sys.executable, '-m', f'benchmarks.{name}', *arguments],
    check=True,
    text=True,
    stdout=subprocess.PIPE,
    env=alternate.environment(),
  )
  return done.stdout


_MEASURES = {
  'random': _random,
  'real_1': functools.partial(_real, 1),
  'real_8': functools.partial(_real, 8),
}


def main():
  """Prints the result."""
  needs.choice('--cases', _CASES.value, list(_MEASURES))
  is_real = any(case.startswith('real') for case in _CASES.value)
  peers = steps.peers(_PEERS if is_real else {_HF: _PEERS[_HF]})
  if is_real:
    needs.gsm8k()
    needs.weights()
  found = {
    case: _MEASURES[case](peers, steps.ROUNDS.value) for case in _CASES.value
  }
  results.show({'benchmark': 'generate_cpu', **found})


if __name__ == '__main__':
  needs.start(main)
