"""Compiles the project's own programs for a TPU that need not be there.

Its argument is a JSON object:
  topology: such as 'v5e:2x4'.
  slices: that many of them; 1 if it is left out.
  rows: of the batch; one for each chip if they are left out.
  changes: of the config, by dotted path; as it is if they are left out.
  student, teacher: names of kd/config/variants.py, such as '1b'.
  length: of a row.
  remat, chunk_tokens: as in kd/config/base.py.
  programs: of 'objective', 'teacher', 'step'.
Prints one JSON object, by program: bytes a chip by kind, operations of all
chips, and bytes that a chip receives from others, in its slice ('ici') and in
another ('dcn'); or the error of a program that does not fit. Of the step also
'with_teacher': its peak and the teacher's parameters that are kept as well.
"""

import json
import sys
import time

import jax
from jax.experimental import topologies
import numpy as np

from benchmarks import alternate
from benchmarks import programs
from benchmarks import stepper
from kd.models import families
from kd.partitioning import rules
from kd.planning import programs as planning_programs
from kd.planning.cost import costs
from kd.planning.hlo import hlo
from kd.planning.hlo import traffic


def main(argument):
  stream = stepper.claim_stdout()
  spec = json.loads(argument)
  topology = topologies.get_topology_desc(
    platform='tpu',
    topology_name=spec['topology'],
    num_slices=spec.get('slices', 1),
  )
  config = lambda name: families.variant(spec[name], name)
  length = spec['length']
  step = programs.build(
    config('student'),
    config('teacher'),
    'bfloat16',
    spec | {'positions': {'rule': 'all', 'fraction': 1.0}},
    (spec.get('rows', len(topology.devices)), length),
    np.asarray(topology.devices),
    spec.get('changes'),
  )
  trips = planning_programs.num_chunks(step.run)
  found = {}
  for name in spec['programs']:
    begin = time.monotonic()
    try:
      found[name] = compiled(step, name, trips)
    except jax.errors.JaxRuntimeError as e:
      found[name] = {'error': str(e).strip().splitlines()[0]}
    if name == 'step' and 'bytes' in found[name]:
      sizes = found[name]['bytes']
      sizes['with_teacher'] = sizes['peak'] + step.teacher_bytes_kept()
    alternate.say(f'{name} {length}: {time.monotonic() - begin:.0f} s')
  print(json.dumps(found), file=stream, flush=True)


def compiled(step, name, trips):
  """Compiles a program of the step: bytes a chip, operations of all chips."""
  function, arguments = step.program(name)
  with rules.active(step.mesh):
    program = function.lower(*arguments).compile()
  text = program.as_text()
  operations, moved = hlo.flops(text, trips), traffic.count(text, trips)
  if name != programs.OBJECTIVE:
    operations += costs.kernel_flops(step.run, name)
  return {
    'bytes': memory(program),
    'flops': operations * step.mesh.size,
    'ici': moved.ici,
    'dcn': moved.dcn,
  }


def memory(program: jax.stages.Compiled) -> dict[str, int]:
  """Returns bytes per device by what they hold.

  Returns:
    'arguments', 'temporaries', 'outputs', 'aliased' (outputs in the place of
    donated arguments) and 'peak', all of them together.
  """
  m = program.memory_analysis()
  sizes = {
    'arguments': m.argument_size_in_bytes,
    'temporaries': m.temp_size_in_bytes,
    'outputs': m.output_size_in_bytes,
    'aliased': m.alias_size_in_bytes,
  }
  return sizes | {'peak': sum(sizes.values()) - 2 * sizes['aliased']}


if __name__ == '__main__':
  main(sys.argv[1])
