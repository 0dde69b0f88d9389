"""Compares a distillation step on this CPU with TRL's and Tunix's.

Random models, float32: V 32768, 4 rows of 256 tokens, a student of 14.1 M and a
teacher of 62.4 M parameters, forward KL, AdamW with clipping. Prints one line
of JSON: seconds, tokens per second and peak memory of each program, the ratios
to the best peer, and the fraction of the limit that our step reaches, which is
the rate of a plain matrix product in the same minutes. `ours_selective` is the
same step with the objective at a quarter of the positions.
"""

from collections.abc import Sequence
import functools
import math
from typing import Any

import numpy as np

from benchmarks import needs
from benchmarks import own_step
from benchmarks import peer_steps
from benchmarks import results
from benchmarks import steps
from kd.models.attention import attention
from kd.models.gemma3 import config as gemma3_config
from kd.planning.cost import flops

# Environment of each peer.
_PEERS = {
  'trl_gkd': 'peers_trl',
  'trl_chunked': 'peers_trl',
  'tunix': 'peers_tunix',
}
_VOCAB_SIZE, _ROWS, _LENGTH = 32768, 4, 256
_MATMUL_SIZE = 2048
_KEPT = 0.25  # Fraction of positions kept by the selective objective.


def _config(width, mlp_dim, layers, head_dim):
  return gemma3_config.Gemma3Config(
    embed_dim=width,
    mlp_dim=mlp_dim,
    num_heads=4,
    num_kv_heads=1,
    head_dim=head_dim,
    vocab_size=_VOCAB_SIZE,
    layer_kinds=gemma3_config.published_kinds(layers),
    window=128,
    context=2048,
    query_scale=256.0,
    local_rope_base=10_000.0,
    global_rope_base=1_000_000.0,
    global_rope_factor=1.0,
    norm_epsilon=1e-6,
  )


STUDENT = _config(256, 1024, layers=6, head_dim=64)
TEACHER = _config(512, 2048, layers=12, head_dim=128)


def run(
  student: gemma3_config.Gemma3Config,
  teacher: gemma3_config.Gemma3Config,
  rows: int,
  length: int,
  matmul_size: int,
  peers: Sequence[str],
  rounds: int,
) -> dict[str, Any]:
  """Measures and returns the result."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(3, student.vocab_size, (rows, length)).tolist()
  sizes = {
    'student': own_step.fields(student),
    'teacher': own_step.fields(teacher),
  }

  def own(positions):
    arguments = own_step.arguments(positions) | sizes | {'tokens': tokens}
    # The last token of a row has no target.
    kept = rows * math.ceil(positions['fraction'] * (length - 1))
    work = flops.step(
      student,
      [teacher],
      rows,
      length,
      arguments['remat'],
      kept,
      attention.XLA,
    )
    return steps.Own(arguments, work)

  measured = steps.measure(
    {
      steps.OURS: own({'rule': 'all', 'fraction': 1.0}),
      'ours_selective': own({'rule': 'random', 'fraction': _KEPT}),
    },
    {
      peer: functools.partial(peer_steps.start, peer, student, teacher, tokens)
      for peer in peers
    },
    matmul_size,
    rounds,
  )
  return {
    'benchmark': 'step_cpu',
    'rows': rows,
    'length': length,
    'vocab_size': student.vocab_size,
    **measured,
  }


def main():
  """Prints the result."""
  results.show(
    run(
      STUDENT,
      TEACHER,
      _ROWS,
      _LENGTH,
      _MATMUL_SIZE,
      steps.peers(_PEERS),
      steps.ROUNDS.value,
    )
  )


if __name__ == '__main__':
  needs.start(main)
