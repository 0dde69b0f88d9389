"""Compares steps with adapters or few-bit weights with a plain step on CPU.

A model of 62.4 M parameters distills itself: random weights, float32, V 32768,
4 rows of 256 tokens, forward KL, AdamW. Prints one line of JSON: seconds and
peak memory of a step that trains all parameters, of a step that trains adapters
of rank 16 on frozen weights in float32 and in int4, and of a step with weights
rounded to Q4_0 in training, and the ratio of each to the first.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import needs
from benchmarks import own_step
from benchmarks import results
from benchmarks import step_cpu
from benchmarks import steps
from kd.models.attention import attention
from kd.models.gemma3 import config as gemma3_config
from kd.planning.cost import flops

_ROWS, _LENGTH, _MATMUL_SIZE = 4, 256, 2048
_RANK = 16
# Changed fields of `student` by program.
_WAYS = {
  'lora': {'lora': {'rank': _RANK, 'base_dtype': 'float32'}},
  'lora_int4': {'lora': {'rank': _RANK, 'base_scheme': 'int4_32'}},
  'q4_0': {'quantize': {'weights': 'q4_0'}},
}


def run(
  model: gemma3_config.Gemma3Config,
  rows: int,
  length: int,
  matmul_size: int,
  rounds: int,
  ways: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
  """Measures and returns the result."""
  rng = np.random.default_rng(0)
  sizes = own_step.fields(model)
  arguments = own_step.arguments({'rule': 'all', 'fraction': 1.0}) | {
    'student': sizes,
    'teacher': sizes,
    'tokens': rng.integers(3, model.vocab_size, (rows, length)).tolist(),
  }
  kept = rows * (length - 1)
  work = flops.step(
    *(model, [model], rows, length),
    *(arguments['remat'], kept, attention.XLA),
  )
  own = {steps.OURS: steps.Own(arguments, work)} | {
    name: steps.Own(arguments | {'student_fields': fields}, work)
    for name, fields in ways.items()
  }
  measured = steps.measure(own, {}, matmul_size, rounds)
  whole = measured['programs'][steps.OURS]
  for name in ways:
    one = measured['programs'][name]
    one['step_ratio'] = one['step_s'] / whole['step_s']
    one['memory_ratio'] = one['peak_mib'] / whole['peak_mib']
  return {
    'benchmark': 'adapters_cpu',
    'rows': rows,
    'length': length,
    'rank': _RANK,
    **measured,
  }


def main():
  """Prints the result."""
  results.show(
    run(
      step_cpu.TEACHER,
      _ROWS,
      _LENGTH,
      _MATMUL_SIZE,
      steps.ROUNDS.value,
      _WAYS,
    )
  )


if __name__ == '__main__':
  needs.start(main)
