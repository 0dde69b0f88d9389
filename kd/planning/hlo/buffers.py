"""Classifies the memory of a chip at a program's peak by kind.

The input is XLA's dump of buffer assignment and live ranges. It contains the
offset, size including tile padding, and lifetime of each value, and the name of
the operation that computes it.
"""

import collections
from collections.abc import Mapping
import dataclasses
import re

from kd.models import layers
from kd.planning.hlo import hlo_text

KINDS = (
  *('parameters', 'optimizer', 'gradients', 'activations', 'kv_cache'),
  *('teacher', 'collectives', 'temporaries'),
)
_ALLOCATION = re.compile(r'^allocation \d+: size (\d+),(.*):$')
# Memory space 0 is HBM; the others are on the chip itself.
_VALUE = re.compile(
  r'^ value: <\d+ (\S+)(?: \(phi\))? @0> \(size=(\d+),offset=(\d+)\)'
)
_LIVES = re.compile(r'^    (\S+):(\d+)-(\d+)$')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
# Operations that return their operand unchanged.
_COPIES = ('copy', 'copy-start', 'copy-done', 'bitcast')
_COLLECTIVES = re.compile(
  r'all-gather|all-reduce|all-to-all|reduce-scatter|collective'
)


@dataclasses.dataclass(frozen=True)
class Memory:
  """The buffers of a program in HBM, in bytes per chip.

  Attributes:
    arguments: size of each argument by name.
    outputs: total size of outputs that do not reuse donated arguments.
    heap: size of the heap that all other values share.
    at_peak: sizes of the heap values that are alive at the peak, by name.
  """

  arguments: Mapping[str, int]
  outputs: int
  heap: int
  at_peak: Mapping[str, int]

  @property
  def total(self) -> int:
    return sum(self.arguments.values()) + self.outputs + self.heap


def read(assigned: str, live: str) -> Memory:
  """Parses the dump files of the compiler.

  Args:
    assigned: text of the buffer-assignment file.
    live: text of the live-range file.
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
      values[name] = int(value[2]), int(value[3])
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
  """Returns the sizes of the values that are alive at the peak.

  Values at the same offset at the same time are one array, such as the
  parameters of the body and the condition of a loop; only one is returned.

  Args:
    values: size and offset by name.
    live: text of the live-range file.
  """
  lives, changes = {}, []
  for line in live.splitlines():
    match = _LIVES.match(line)
    if match and match[1].removesuffix('{}') in values:
      name = match[1].removesuffix('{}')
      first, last = lives[name] = int(match[2]), int(match[3])
      changes += [(first, 1, values[name]), (last + 1, -1, values[name])]
  alive = collections.Counter()
  taken = most = moment = 0
  for time, change, place in sorted(changes):
    before, alive[place] = alive[place], alive[place] + change
    taken += place[0] * ((alive[place] > 0) - (before > 0))
    if taken > most:
      most, moment = taken, time
  by_place = {}
  for name, (first, last) in lives.items():
    if first <= moment <= last:
      by_place.setdefault(values[name], name)
  return {name: size for (size, _), name in by_place.items()}


def by_kind(
  memory: Memory, program: str, arguments: Mapping[str, str]
) -> dict[str, int]:
  """Returns bytes per chip by KINDS; their sum is memory.total.

  Gradients are values of an update with the type of a trained argument that are
  not a copy of an argument. Activations are the batch, the outputs and what the
  forward pass saves for the backward pass. Collectives are results of
  collective operations, mostly gathered weights. Temporaries are scratch and
  fragmentation.

  Args:
    memory: the buffers of the program.
    program: text of the compiled program.
    arguments: kind by prefix of an argument's name in the source; other
      arguments are activations.
  """
  origins = _Origins(program, arguments)
  sizes = dict.fromkeys(KINDS, 0)
  for name, size in memory.arguments.items():
    origin = ''.join(origins.op_names(name)[:1])
    kinds = [k for start, k in arguments.items() if origin.startswith(start)]
    sizes[kinds[0] if kinds else 'activations'] += size
  for name, size in memory.at_peak.items():
    sizes[origins.kind(name)] += size
  sizes['activations'] += memory.outputs
  sizes['temporaries'] += memory.heap - sum(memory.at_peak.values())
  return sizes


class _Origins:
  """Maps each value of a program to the source operation that computes it."""

  def __init__(self, text, arguments):
    program = hlo_text.parse(text)
    self._instructions = {
      i.name: (computation, i)
      for computation in program.computations.values()
      for i in computation.instructions
    }
    self._loops = {
      part: i.name
      for computation in program.computations.values()
      for i in computation.instructions
      if i.op == 'while'
      for part in i.called('body') + i.called('condition')
    }
    self._arguments = tuple(arguments)
    # Types of trained arguments; only an update has optimizer arguments.
    trained = [k for k, kind in arguments.items() if kind == 'parameters']
    is_update = 'optimizer' in arguments.values()
    self._trained = {
      _type(i.arrays[0])
      for i in program.computations[program.entry].instructions
      if i.op == 'parameter' and is_update
      for name in self.op_names(i.name)[:1]
      if name.startswith(tuple(trained))
    }

  def kind(self, value):
    """Returns the kind of a heap value; its name may have a tuple index."""
    name = value.partition('{')[0]
    if name in self._instructions:
      _, instruction = self._instructions[name]
      calls = ' '.join((name, *instruction.called('calls')))
      if _COLLECTIVES.search(calls):
        return 'collectives'
    op_names = self.op_names(value)
    scopes = [scope for op_name in op_names for scope in op_name.split('/')]
    if layers.KV_CACHE in scopes:
      return 'kv_cache'
    if any(map(_is_forward, op_names)):
      return 'activations'
    is_copy = any(name.startswith(self._arguments) for name in op_names)
    if self._type(value) in self._trained and not is_copy:
      return 'gradients'
    return 'temporaries'

  def _type(self, value):
    name, _, index = value.partition('{')
    if name not in self._instructions:
      return None
    arrays = self._instructions[name][1].arrays
    index = _index(index) or 0
    return _type(arrays[index]) if index < len(arrays) else None

  def op_names(self, value):
    """Returns the source names of the operations that compute a value.

    A copy has the name of its operand. A value carried by a loop has the name
    of the loop and the name of its initial value.
    """
    name, _, index = value.partition('{')
    index = _index(index)
    names, seen = [], set()
    while name in self._instructions and (name, index) not in seen:
      seen.add((name, index))
      computation, instruction = self._instructions[name]
      origin = _OP_NAME.search(instruction.attributes)
      if origin:
        names.append(origin[1].replace('\\', ''))
      carries = instruction.op in ('while', 'tuple') and index is not None
      if origin and not carries:
        break
      name, index = self._source(computation, instruction, index)
    return names

  def _source(self, computation, instruction, index):
    """Returns name and index of the value that an instruction forwards."""
    op, operands = instruction.op, instruction.operands
    if op == 'while':
      return operands[0], index
    if op == 'tuple':
      return ('', None) if index is None else (operands[index], None)
    if op == 'get-tuple-element':
      return operands[0], instruction.integers('index')[0]
    if op in _COPIES:
      return operands[0], None
    if op == 'parameter' and computation.name in self._loops:
      return self._loops[computation.name], index
    return '', None


def _index(text):
  """Returns the first index of a text such as '1,0}', or None for ''."""
  return int(text.rstrip('}').split(',')[0]) if text.rstrip('}') else None


def _type(array):
  return array.dtype, array.shape


def _is_forward(op_name):
  is_layer = layers.TRANSFORMER_LAYERS in op_name.split('/')
  return is_layer and 'transpose(' not in op_name
