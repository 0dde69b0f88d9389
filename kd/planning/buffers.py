"""What lies in a chip's memory when a program needs most of it, by kind.

Read from what XLA's compiler writes when it is asked to: where each value lies,
the bytes it takes with its tiles' padding, from when to when it lives, and the
name of the operation that it comes from.
"""

from collections.abc import Mapping
import dataclasses
import re

from kd.planning import hlo_text

KINDS = (
  *('parameters', 'optimizer', 'teacher'),
  *('activations', 'temporaries', 'collectives'),
)
_ALLOCATION = re.compile(r'^allocation \d+: size (\d+),(.*):$')
# Memory space 0 is HBM; the others are on the chip itself.
_VALUE = re.compile(r'^ value: <\d+ (\S+)(?: \(phi\))? @0> \(size=(\d+),')
_LIVES = re.compile(r'^    (\S+):(\d+)-(\d+)$')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_DECODING = 'jit(run)/while'
_MOVES = re.compile(
  r'all-gather|all-reduce|all-to-all|reduce-scatter|collective'
)


@dataclasses.dataclass(frozen=True)
class Memory:
  """A program's buffers in HBM, bytes of one chip.

  Attributes:
    arguments: by name.
    outputs: those that do not lie where donated arguments did, together.
    heap: what all other values share.
    at_peak: values of the heap that live when most of it is taken, by name.
  """

  arguments: Mapping[str, int]
  outputs: int
  heap: int
  at_peak: Mapping[str, int]

  @property
  def total(self) -> int:
    return sum(self.arguments.values()) + self.outputs + self.heap


def read(assigned: str, live: str) -> Memory:
  """Reads the compiler's files.

  Args:
    assigned: its buffer-assignment file.
    live: its live-range file.
  """
  arguments, outputs, heap, values = {}, 0, 0, {}
  kind = ''
  for line in assigned.splitlines():
    allocation = _ALLOCATION.match(line)
    if allocation:
      size, kind = int(allocation[1]), _kind_of_allocation(allocation[2])
      outputs += size if kind == 'output' else 0
      heap += size if kind == 'heap' else 0
      continue
    value = _VALUE.match(line)
    if not value:
      continue
    name = value[1].removesuffix('{}')
    if kind == 'heap':
      values[name] = int(value[2])
    elif kind == 'argument' and name.startswith('param'):
      arguments[name] = int(value[2])
  return Memory(arguments, outputs, heap, _most_alive(values, live))


def _kind_of_allocation(text):
  if 'color' in text or 'thread-local' in text or 'constant' in text:
    return ''
  for words, kind in (
    ('preallocated-temp', 'heap'),
    ('parameter', 'argument'),
    ('output', 'output'),
  ):
    if words in text:
      return kind
  return ''


def _most_alive(values, live):
  """The values that live at the moment when they take most."""
  lives = {}
  for line in live.splitlines():
    match = _LIVES.match(line)
    if match and match[1].removesuffix('{}') in values:
      name = match[1].removesuffix('{}')
      lives[name] = int(match[2]), int(match[3])
  changes = []
  for name, (first, last) in lives.items():
    changes += [(first, values[name]), (last + 1, -values[name])]
  taken = most = moment = 0
  for time, change in sorted(changes):
    taken += change
    if taken > most:
      most, moment = taken, time
  return {
    name: values[name]
    for name, (first, last) in lives.items()
    if first <= moment <= last
  }


def by_kind(
  memory: Memory, program: str, arguments: Mapping[str, str]
) -> dict[str, int]:
  """Bytes a chip by KINDS; their sum is memory.total.

  What the forward pass leaves for the backward pass, the batch and the results
  are activations; gathered weights and other results of exchanges are
  collectives; gradients, scratch and gaps between buffers are temporaries.

  Args:
    memory: of the program.
    program: the compiled program's text.
    arguments: kinds by the beginnings of the arguments' names in the source;
      any other argument is an activation.
  """
  inside = [name.partition('{')[0] for name in memory.at_peak]
  origins = _origins(program, {*memory.arguments, *inside})
  found = dict.fromkeys(KINDS, 0)
  for name, size in memory.arguments.items():
    _, origin = origins.get(name, ('', ''))
    kinds = [k for start, k in arguments.items() if origin.startswith(start)]
    found[kinds[0] if kinds else 'activations'] += size
  for name, size in memory.at_peak.items():
    found[_kind(*origins.get(name.partition('{')[0], ('', '')))] += size
  found['activations'] += memory.outputs
  found['temporaries'] += memory.heap - sum(memory.at_peak.values())
  return found


def _origins(program, names):
  """By instruction, its name with what it calls, and the user's operation.

  What a loop carries has no operation of its own: the loop's stands for it.
  """
  computations = hlo_text.parse(program).computations
  loops = {
    body: i
    for computation in computations.values()
    for i in computation.instructions
    if i.op == 'while'
    for body in i.called('body')
  }
  found = {}
  for computation in computations.values():
    for i in computation.instructions:
      if i.name not in names:
        continue
      origin = _OP_NAME.search(i.attributes)
      if not origin and i.op == 'parameter' and computation.name in loops:
        origin = _OP_NAME.search(loops[computation.name].attributes)
      calls = ' '.join((i.name, *i.called('calls')))
      found[i.name] = calls, origin[1].replace('\\', '') if origin else ''
  return found


def _kind(name, origin):
  if _MOVES.search(name):
    return 'collectives'
  is_forward = 'transpose(' not in origin and '_run_layers' in origin
  is_forward |= origin.startswith(_DECODING)  # Keys and values.
  return 'activations' if is_forward else 'temporaries'
