"""Bytes that a compiled program moves, counted from its text.

XLA's own count of bytes, like that of operations, takes a loop's body once.
"""

import dataclasses
import functools
import math
import re

from kd.planning.hlo import hlo
from kd.planning.hlo import hlo_text

# These name what lies somewhere, and move nothing.
_NAMES = (
  *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast'),
  *('after-all', 'partition-id', 'iota', 'opt-barrier'),
)
_EXCHANGES = (
  *('all-gather', 'all-reduce', 'all-to-all', 'reduce-scatter'),
  'collective-permute',
)
_CHANNEL = re.compile(r'channel_id=(\d+)')


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Bytes of one chip.

  Attributes:
    hbm: read from its memory and written to it.
    ici: that come in from other chips.
  """

  hbm: float
  ici: float


def count(text: str, unknown_trips: int | None) -> Traffic:
  """Bytes that a program moves.

  Of an operation its operands and results count, as far as they lie in HBM; of
  a slice or an update in place, only what is sliced or updated.

  Args:
    text: from `compiled.as_text()`.
    unknown_trips: see hlo.flops.

  Raises:
    ValueError: see hlo.flops.
  """
  program = hlo_text.parse(text)
  hbm = hlo.total(program, functools.partial(_hbm, program), unknown_trips)
  seen = set()
  ici = hlo.total(
    program, functools.partial(_ici, program, seen), unknown_trips
  )
  return Traffic(hbm, ici)


def _hbm(program, computation, instruction):
  if instruction.op in _NAMES or instruction.op.endswith('-done'):
    return 0.0
  if instruction.op == 'fusion':
    return _fusion(program, computation, instruction)
  read = [computation.by_name.get(name) for name in instruction.operands]
  if instruction.op == 'dynamic-update-slice':
    return 2 * _main(read[1])
  if instruction.op in ('dynamic-slice', 'gather', 'slice'):
    return 2 * _main(instruction)
  if instruction.op.endswith('-start') and len(instruction.arrays) > 1:
    ends = instruction.arrays[:2]  # Whence and whither, in either order.
    moved = min(a.bytes for a in ends)
    return sum(moved for a in ends if a.space == 0)
  return _main(instruction) + sum(_main(i) for i in read)


def _main(instruction):
  """Bytes of a result that lie in HBM."""
  if instruction is None:
    return 0.0
  return sum(a.bytes for a in instruction.arrays if a.space == 0)


def _fusion(program, computation, instruction):
  inner = program.computations[instruction.called('calls')[0]]
  uses = _uses(inner)
  total = 0.0
  for i in inner.instructions:
    if i.op != 'parameter':
      continue
    name = instruction.operands[int(i.arguments)]
    operand = computation.by_name.get(name)
    if operand is None or not _main(operand):
      continue
    total += min(_main(operand), _read(inner, i, uses))
  return total + _written(inner, instruction)


def _uses(computation):
  found = {}
  for i in computation.instructions:
    for place, name in enumerate(i.operands):
      found.setdefault(name, []).append((i, place))
  return found


def _read(inner, parameter, uses):
  """Bytes that a fusion reads of one of its parameters."""
  total = 0.0
  for user, place in uses.get(parameter.name, ()):
    if user.op in ('dynamic-slice', 'slice', 'gather') and place == 0:
      total += sum(a.bytes for a in user.arrays)
    elif user.op == 'dynamic-update-slice' and place == 0:
      total += 0.0
    elif user.op == 'bitcast':
      total += _read(inner, user, uses)
    else:
      return float('inf')
  return total


def _written(inner, instruction):
  """Bytes that a fusion writes: of an update in place, the update."""
  roots = [inner.root]
  if inner.root.op == 'tuple':
    roots = [inner.by_name[name] for name in inner.root.operands]
  total = 0.0
  for root, array in zip(roots, instruction.arrays, strict=False):
    if array.space:
      continue
    while root.op == 'bitcast' and root.operands[0] in inner.by_name:
      root = inner.by_name[root.operands[0]]
    if root.op == 'dynamic-update-slice':
      update = inner.by_name[root.operands[1]]
      total += sum(a.bytes for a in update.arrays)
    else:
      total += array.bytes
  return total


def _ici(program, seen, computation, instruction):
  if instruction.op == 'fusion':
    inner = program.computations[instruction.called('calls')[0]]
    return sum(_ici(program, seen, inner, i) for i in inner.instructions)
  op = instruction.op.removesuffix('-start')
  if op not in _EXCHANGES:
    return 0.0
  # What overlaps with other work is written several times: start, steps, end.
  channel = _CHANNEL.search(instruction.attributes)
  if channel:
    if channel[1] in seen:
      return 0.0
    seen.add(channel[1])
  read = sum(
    a.bytes
    for name in instruction.operands
    for a in computation.by_name[name].arrays
  )
  devices = _group(instruction.attributes)
  share = 1 - 1 / devices if devices else 1.0
  if op == 'all-gather':
    return read * (devices - 1)
  if op == 'all-reduce':
    # What scatters its sum at once needs one way only.
    ways = 1 if 'scatter' in computation.name else 2
    return ways * share * read
  return read if op == 'collective-permute' else share * read


def _group(attributes):
  """Devices that exchange among themselves, by any of HLO's notations."""
  found = re.search(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}', attributes)
  if found:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    axes = re.findall(r"'(\w+)'", found[2])
    return math.prod(int(sizes[axis]) for axis in axes)
  found = re.search(r'replica_groups=\[\d+,(\d+)\]', attributes)
  if found:
    return int(found[1])
  found = re.search(r'replica_groups=\{\{([\d,]*)\}', attributes)
  return found[1].count(',') + 1 if found else 1
