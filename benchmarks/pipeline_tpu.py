"""Compares pipeline stages with pure fsdp on two TPU slices.

No TPU is needed: the compiler comes with the environment `libtpu`. Forward KL,
AdamW, bfloat16 activations and teacher, rematerialized layers: 1B from 27B on
two slices of v5e:4x4, and on one. Prints one line of JSON by case and program:
GiB per chip, TFLOP of all chips, and GB that a chip receives from its own slice
and from the other; or the compiler's error if the program does not fit.
"""

from collections.abc import Mapping
import sys
from typing import Any

from absl import flags

from benchmarks import alternate
from benchmarks import needs
from benchmarks import results
from benchmarks import tpu_compiler

_CASES = flags.DEFINE_list('cases', [], 'Cases to compile; all if empty.')

_SETTINGS = {
  'topology': 'v5e:4x4',
  'student': '1b',
  'teacher': '27b',
  'length': 2048,
  'remat': 'block',
  'chunk_tokens': 256,
  'programs': ['teacher', 'step'],
}
_TWO = _SETTINGS | {'slices': 2, 'rows': 128}
_STAGES = {'mesh.pipeline': 2, 'mesh.pipeline_micro_batches': 8}
CASES = {
  'two_slices_data': _TWO | {'changes': {'mesh.data': 2}},
  'two_slices_stages': _TWO | {'changes': _STAGES},
  'one_slice_fsdp': _SETTINGS | {'rows': 64},
  'one_slice_stages': _SETTINGS | {'rows': 64, 'changes': _STAGES},
}


def summary(program: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the printed fields of a program of compile_tpu."""
  if 'error' in program:
    return dict(program)
  return {
    'gib': program['bytes']['peak'] / 2**30,
    'tflop': program['flops'] / 1e12,
    'gb_in_slice': program['ici'] / 1e9,
    'gb_between_slices': program['dcn'] / 1e9,
  }


def main():
  """Prints the result."""
  tpu_compiler.need()
  needs.choice('--cases', _CASES.value, list(CASES))
  shown = {}
  for name in _CASES.value or CASES:
    alternate.say(f'compiling {name}')
    compiled = tpu_compiler.run(
      sys.executable, 'benchmarks.compile_tpu', CASES[name]
    )
    shown[name] = {key: summary(value) for key, value in compiled.items()}
  results.show({'benchmark': 'pipeline_tpu', 'cases': shown})


if __name__ == '__main__':
  needs.start(main)
