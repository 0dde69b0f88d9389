"""Compiles kd's programs for a TPU without needing one.

The argument is a JSON object:
  topology: name of the topology, such as 'v5e:2x4'.
  slices: number of slices with that topology; 1 by default.
  rows: number of rows in the batch; one per chip by default.
  changes: changed config fields by dotted path; none by default.
  student, teacher: names from kd/config/variants.py, such as '1b'.
  length: number of positions in a row.
  remat, chunk_tokens: as in kd/config/base.py.
  programs: any of 'objective', 'teacher', 'step'.

Prints one JSON object by program: bytes per chip by kind, operations of all
chips, and bytes that a chip receives from its slice ('ici') and from other
slices ('dcn'); or the error of a program that does not fit. For the step,
'with_teacher' is its peak plus the teacher's parameters that stay in memory.
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
  """Compiles a program of the step and returns its bytes and operations."""
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
  """Returns bytes per device by use.

  Returns:
    'arguments', 'temporaries', 'outputs', 'aliased' (outputs in the buffers of
    donated arguments) and 'peak', the bytes of all, counting aliased ones once.
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
