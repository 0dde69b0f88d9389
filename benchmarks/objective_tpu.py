"""Computes memory and operations of the objective and the step on TPUs.

No TPU is needed: the compiler comes with the environment `libtpu`. One row per
chip, forward KL, AdamW, bfloat16 activations: 1B from 4B on v5e:2x4 at three
lengths, and 4B from 27B on v5e:4x4. Prints one line of JSON: GiB per chip and
operations by case and program, with the ratio to the count by formula, and the
same for Tunix's own step; or the compiler's error if a program does not fit.
"""

from collections.abc import Mapping, Sequence
import sys
from typing import Any

from absl import flags

from benchmarks import alternate
from benchmarks import environments
from benchmarks import needs
from benchmarks import results
from benchmarks import tpu_compiler
from kd.core import errors
from kd.models import families
from kd.models.attention import attention_backend
from kd.planning.cost import flops

_PEER = flags.DEFINE_bool(
  'peer', True, "Also compile Tunix's step, which is slow."
)
_LENGTHS = flags.DEFINE_list(
  'lengths',
  ['2048', '8192', '32768'],
  'Row lengths, in tokens, of the cases that distill 1B from 4B.',
)
_LARGE = flags.DEFINE_bool('large', True, 'Also compile 4B from 27B.')

_CHUNK_TOKENS = 32
_REMAT = 'block'
_CHIPS = {'v5e:2x4': 8, 'v5e:4x4': 16}


def by_formula(case: Mapping[str, Any], rows: int) -> dict[str, int]:
  """Returns the operations of each program of compile_tpu.

  Args:
    case: argument of compile_tpu.
    rows: number of rows B.
  """
  student, teacher = (
    families.variant(case[name], name) for name in ('student', 'teacher')
  )
  tokens = rows * case['length']
  # The choice of a run with packed rows on TPUs.
  place = attention_backend.Place('tpu', 0.0, packed=True, length_shards=1)
  kernel = attention_backend.choose(
    'auto', student, 'bfloat16', place, 'attention'
  )
  parts = flops.step(
    *(student, [teacher], rows, case['length']),
    *(case['remat'], tokens, kernel),
  )
  teacher_part = parts.pop('teacher')
  return {
    'objective': parts['objective'],
    'teacher': teacher_part,
    'step': sum(parts.values()),
  }


def summary(found: Mapping[str, Any], formula: Mapping[str, int]):
  """Returns the output of compile_tpu or tunix_compile with bytes in GiB."""
  shown = {}
  for name, program in found.items():
    if 'error' in program:
      shown[name] = program
      continue
    shown[name] = {k: b / 2**30 for k, b in program['bytes'].items()}
    if 'flops' in program:
      shown[name]['tflop'] = 1e-12 * program['flops']
      shown[name]['flops_to_formula'] = program['flops'] / formula[name]
  return shown


def cases(lengths: Sequence[int], large: bool) -> list[dict[str, Any]]:
  """Returns the argument of compile_tpu for each case."""
  settings = {'remat': _REMAT, 'chunk_tokens': _CHUNK_TOKENS}
  small = {'topology': 'v5e:2x4', 'student': '1b', 'teacher': '4b'}
  found = [
    small
    | {'length': length, 'programs': ['objective', 'teacher', 'step']}
    | settings
    for length in lengths
  ]
  if large:
    models_ = {'topology': 'v5e:4x4', 'student': '4b', 'teacher': '27b'}
    found.append(
      models_ | {'length': 2048, 'programs': ['teacher', 'step']} | settings
    )
  return found


def _lengths():
  """Returns the numbers of --lengths."""
  for text in _LENGTHS.value:
    if not text.isdecimal() or not int(text):
      raise errors.ConfigError(
        '--lengths', f'found {text!r}', legal='numbers of tokens'
      )
  return [int(text) for text in _LENGTHS.value]


def main():
  """Prints the result."""
  lengths = _lengths()
  tpu_compiler.need()
  if _PEER.value:
    needs.environment(
      'peers_tunix', needs.MODULES['peers_tunix'], without='--nopeer'
    )
  shown = []
  for case in cases(lengths, _LARGE.value):
    alternate.say(f'compiling {case}')
    ours = tpu_compiler.run(sys.executable, 'benchmarks.compile_tpu', case)
    formula = by_formula(case, _CHIPS[case['topology']])
    result = case | {'ours': summary(ours, formula)}
    if _PEER.value:
      alternate.say("compiling Tunix's")
      peer = tpu_compiler.run(
        environments.python('peers_tunix'),
        'benchmarks.peers.tunix_compile',
        case | {'programs': ['teacher', 'step']},
      )
      result['tunix'] = summary(peer, formula)
    del result['programs']
    shown.append(result)
  results.show({'benchmark': 'objective_tpu', 'cases': shown})


if __name__ == '__main__':
  needs.start(main)
