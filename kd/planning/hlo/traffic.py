"""Counts the bytes that a compiled program moves, from its text.

XLA's own count of bytes, like that of operations, counts a loop's body only
once.
"""

import dataclasses
import functools
import math
import re

from kd.planning.hlo import hlo
from kd.planning.hlo import hlo_text

# Operations that only refer to data and move nothing.
_FREE = (
  *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast'),
  *('after-all', 'partition-id', 'iota', 'opt-barrier'),
)
_COLLECTIVES = (
  *('all-gather', 'all-reduce', 'all-to-all', 'reduce-scatter'),
  'collective-permute',
)
# Attributes of transfers between slices.
_DCN = '_xla_host_transfer_handler_name="xla_megascale_runtime"'
_NOT_RECEIVING = re.compile(r'"non_target_slice_ids":\[([\d,]*)\]')
_CHANNEL = re.compile(r'channel_id=(\d+)')


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Bytes moved by one chip.

  Attributes:
    hbm: bytes read from and written to HBM.
    ici: bytes received from other chips of the slice.
    dcn: bytes received from other slices, by a chip of the slice that receives
      the most.
  """

  hbm: float
  ici: float
  dcn: float


def count(text: str, unknown_trips: int | None) -> Traffic:
  """Counts the bytes that a program moves.

  An operation counts its operands and results that are in HBM. A slice or an
  in-place update counts only the slice or the update.

  Args:
    text: the program, from `compiled.as_text()`.
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
  slices = set(','.join(_NOT_RECEIVING.findall(text)).split(','))
  dcn = [
    hlo.total(program, functools.partial(_dcn, one), unknown_trips)
    for one in slices
  ]
  return Traffic(hbm, ici, max(dcn))


def _hbm(program, computation, instruction):
  if instruction.op in _FREE or instruction.op.endswith('-done'):
    return 0.0
  if instruction.op == 'fusion':
    return _fusion(program, computation, instruction)
  read = [computation.by_name.get(name) for name in instruction.operands]
  if instruction.op == 'dynamic-update-slice':
    return 2 * _hbm_bytes(read[1])
  if instruction.op in ('dynamic-slice', 'gather', 'slice'):
    return 2 * _hbm_bytes(instruction)
  if instruction.op.endswith('-start') and len(instruction.arrays) > 1:
    ends = instruction.arrays[:2]  # Source and destination, in either order.
    moved = min(a.bytes for a in ends)
    return sum(moved for a in ends if a.space == 0)
  return _hbm_bytes(instruction) + sum(_hbm_bytes(i) for i in read)


def _hbm_bytes(instruction):
  """Returns the bytes of a result that are in HBM."""
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
    if operand is None or not _hbm_bytes(operand):
      continue
    total += min(_hbm_bytes(operand), _read(inner, i, uses))
  return total + _written(inner, instruction)


def _uses(computation):
  """Returns the users of each value: instruction and operand index."""
  users = {}
  for i in computation.instructions:
    for index, name in enumerate(i.operands):
      users.setdefault(name, []).append((i, index))
  return users


def _read(inner, parameter, uses):
  """Returns the bytes that a fusion reads from one of its parameters."""
  total = 0.0
  for user, index in uses.get(parameter.name, ()):
    if user.op in ('dynamic-slice', 'slice', 'gather') and index == 0:
      total += sum(a.bytes for a in user.arrays)
    elif user.op == 'dynamic-update-slice' and index == 0:
      total += 0.0
    elif user.op == 'bitcast':
      total += _read(inner, user, uses)
    else:
      return float('inf')
  return total


def _written(inner, instruction):
  """Returns the bytes that a fusion writes; in place, only the update."""
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
  if op not in _COLLECTIVES:
    return 0.0
  # An asynchronous collective appears several times: start, steps, done.
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
  fraction = 1 - 1 / devices if devices else 1.0
  if op == 'all-gather':
    return read * (devices - 1)
  if op == 'all-reduce':
    # A sum that is scattered at once is a reduce-scatter: one way only.
    ways = 1 if 'scatter' in computation.name else 2
    return ways * fraction * read
  return read if op == 'collective-permute' else fraction * read


def _dcn(number, computation, instruction):
  """Returns the bytes that one slice receives; all have the same text."""
  del computation
  if instruction.op != 'recv' or _DCN not in instruction.attributes:
    return 0.0
  others = ','.join(_NOT_RECEIVING.findall(instruction.attributes))
  return 0.0 if number in others.split(',') else instruction.arrays[0].bytes


def _group(attributes):
  """Returns the size of a replica group, in any of HLO's notations."""
  match = re.search(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}', attributes)
  if match:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
    axes = re.findall(r"'(\w+)'", match[2])
    return math.prod(int(sizes[axis]) for axis in axes)
  match = re.search(r'replica_groups=\[\d+,(\d+)\]', attributes)
  if match:
    return int(match[1])
  match = re.search(r'replica_groups=\{\{([\d,]*)\}', attributes)
  return match[1].count(',') + 1 if match else 1
