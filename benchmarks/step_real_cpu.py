"""Compares a step of the real Gemma 3 270M on this CPU with TRL's.

The model distills itself in float32: 1 row of 256 tokens of GSM8K, forward KL,
AdamW with clipping. KD_DATA_DIR must contain gsm8k/train.jsonl; the weights
come with the peer's environment. Prints one line of JSON, as step_cpu does.
"""

from collections.abc import Sequence
import functools
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks import alternate
from benchmarks import needs
from benchmarks import own_step
from benchmarks import peer_steps
from benchmarks import results
from benchmarks import steps
from kd.checkpoints import weights
from kd.models.attention import attention
from kd.planning.cost import flops

_PEERS = {'trl_gkd': 'peers_trl', 'trl_chunked': 'peers_trl'}
_LENGTH = 256
_MATMUL_SIZE = 2048


def run(
  folder: str,
  tokens: Sequence[int],
  matmul_size: int,
  peers: Sequence[str],
  rounds: int,
) -> dict[str, Any]:
  """Measures and returns the result.

  Args:
    folder: Hugging Face folder of the float32 weights.
    tokens: token ids of the row.
    matmul_size: see steps.measure.
    peers: names from peer_steps.TRL_LOSSES.
    rounds: see steps.measure.
  """
  config = weights.model_config(f'hf:{folder}', 'folder')
  length = len(tokens)
  given = {'tokens': [list(tokens)], 'folder': folder}
  own = own_step.arguments({'rule': 'all', 'fraction': 1.0}) | given
  work = flops.step(
    config, [config], 1, length, own['remat'], length - 1, attention.XLA
  )
  measured = steps.measure(
    {steps.OURS: steps.Own(own, work)},
    {
      peer: functools.partial(
        peer_steps.start_trl, given | {'loss': peer_steps.TRL_LOSSES[peer]}
      )
      for peer in peers
    },
    matmul_size,
    rounds,
  )
  return {
    'benchmark': 'step_real_cpu',
    'rows': 1,
    'length': length,
    'vocab_size': config.vocab_size,
    **measured,
  }


def _prepare(gguf, file, folder, length):
  """Writes the folder in a separate process and returns the ids of a row."""
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.real_model']
    + [gguf, file, folder, str(length)],
    check=True,
    text=True,
    stdout=subprocess.PIPE,
    env=alternate.environment(),
  )
  return json.loads(done.stdout.splitlines()[-1])


def main():
  """Prints the result."""
  peers = steps.peers(_PEERS)
  file = needs.gsm8k()
  needs.weights()
  with tempfile.TemporaryDirectory() as work:
    folder = os.path.join(work, 'hf')
    alternate.say('writing the weights for all programs')
    tokens = _prepare(needs.gguf(), file, folder, _LENGTH)
    results.show(run(folder, tokens, _MATMUL_SIZE, peers, steps.ROUNDS.value))


if __name__ == '__main__':
  needs.start(main)
