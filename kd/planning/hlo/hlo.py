"""Counts the operations of a compiled program from its text.

XLA's own cost_analysis() counts the body of a loop only once.
"""

from collections.abc import Callable
import functools
import math
import re

import numpy as np

from kd.planning.hlo import hlo_text

# Operations that call a computation once each time they run.
_CALLS = {
  'async-start': 'calls',
  'call': 'to_apply',
}
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def flops(text: str, unknown_trips: int | None) -> int:
  """Counts the floating point operations of all products, 2 per multiply-add.

  Counts dots and convolutions (the TPU compiler turns dots into convolutions),
  also inside fusions. Counts the body of a loop times its trip count, and the
  most expensive branch of a conditional. Custom calls count as 0, since the
  text does not contain the operations of kernels.

  Args:
    text: the program, from `compiled.as_text()`.
    unknown_trips: trip count of loops whose count depends on data, or None if
      there are none.

  Returns:
    Operations of one device.

  Raises:
    ValueError: the count of a loop depends on data, and unknown_trips is None.
  """
  program = hlo_text.parse(text)
  return total(program, functools.partial(_products, program), unknown_trips)


Count = Callable[[hlo_text.Computation, hlo_text.Instruction], float]


def total(
  program: hlo_text.Program, count: Count, unknown_trips: int | None
) -> float:
  """Sums a count over all instructions, weighted by how often they run.

  Args:
    program: the program, from hlo_text.parse.
    count: returns the count of an instruction. It is not called for loops,
      conditionals and calls; their computations are counted instead.
    unknown_trips: see flops.

  Raises:
    ValueError: see flops.
  """

  @functools.cache
  def inside(name):
    computation = program.computations[name]
    return sum(count_of(computation, i) for i in computation.instructions)

  def count_of(computation, instruction):
    op = instruction.op
    if op in _CALLS:
      return sum(inside(c) for c in instruction.called(_CALLS[op]))
    if op == 'conditional':
      return max(inside(c) for c in _branches(instruction))
    if op == 'while':
      body = sum(inside(c) for c in instruction.called('body'))
      return body and body * trips(computation, instruction)
    return count(computation, instruction)

  def trips(computation, instruction):
    known = _trip_count(program, computation, instruction)
    if known is not None:
      return known
    if unknown_trips is None:
      raise ValueError(f'the trip count of {instruction.name} depends on data')
    return unknown_trips

  return inside(program.entry)


def _products(program, computation, instruction):
  op = instruction.op
  if op == 'dot':
    return _dot(computation, instruction)
  if op == 'convolution':
    return _convolution(computation, instruction)
  if op == 'fusion':
    inner = program.computations[instruction.called('calls')[0]]
    return sum(_products(program, inner, i) for i in inner.instructions)
  return 0


def _dot(computation, instruction):
  lhs = computation.by_name[instruction.operands[0]].arrays[0].shape
  contracted = instruction.integers('lhs_contracting_dims')
  out = instruction.arrays[0].elements
  return 2 * out * math.prod(lhs[d] for d in contracted)


def _convolution(computation, instruction):
  """Returns 2 x outputs x inputs of each, without padding and dilation holes.

  XLA writes a batched dot as a convolution with a dilated input, so that each
  batch is multiplied only with its own kernel. Counting the holes of the
  dilation would count every pair of batches.
  """
  lhs, rhs = (
    computation.by_name[name].arrays[0].shape
    for name in instruction.operands[:2]
  )
  out = instruction.arrays[0].shape
  labels = re.split('_|->', instruction.attribute('dim_labels'))
  lhs, rhs, out = (
    dict(zip(label, shape, strict=True))
    for label, shape in zip(labels, (lhs, rhs, out), strict=True)
  )
  window = _window(instruction)
  overlaps = math.prod(
    _overlaps(lhs[str(d)], out[str(d)], *(w[d] for w in window))
    for d in range(len(lhs) - 2)
  )
  return 2 * out['b'] * out['f'] * rhs['i'] * overlaps


def _window(instruction):
  """Returns sizes, strides, low paddings and both dilations, by axis."""
  axes = len(instruction.attribute('dim_labels').split('_')[0]) - 2
  text = instruction.attribute('window')

  def field(name, default):
    match = re.search(rf'\b{name}=([\d_x\-]+)', text)
    parts = match[1].split('x') if match else [default] * axes
    return [int(part.split('_')[0]) for part in parts]

  names = ('size', 'stride', 'pad', 'lhs_dilate', 'rhs_dilate')
  return [field(name, '0' if name == 'pad' else '1') for name in names]


def _overlaps(inputs, outputs, size, stride, low, dilation, kernel_dilation):
  """Counts multiplied pairs of input and kernel elements on one axis."""
  starts = np.arange(outputs)[:, None] * stride - low
  positions = starts + np.arange(size) * kernel_dilation
  inside = (positions >= 0) & (positions <= (inputs - 1) * dilation)
  return int(np.sum(inside & (positions % dilation == 0)))


def _branches(instruction):
  names = ('branch_computations', 'true_computation', 'false_computation')
  return [c for name in names for c in instruction.called(name)]


def _trip_count(program, computation, loop):
  """Returns the trip count of a loop, or None if it depends on data."""
  known = _TRIPS.search(loop.attributes)
  if known:
    return int(known[1])
  condition, body = (
    program.computations[loop.called(name)[0]] for name in ('condition', 'body')
  )
  op, operands = _inside(program, condition, condition.root)
  if op.attribute('direction') != 'LT' or len(operands) != 2:
    return None
  counter, stop = operands
  if counter.op != 'get-tuple-element' or stop.op != 'constant':
    return None
  (index,) = counter.integers('index')
  state = computation.by_name[loop.operands[0]]
  start = _constant(computation, _element(computation, state, index))
  step = _step(program, body, index)
  if start is None or step is None:
    return None
  return -(-(int(stop.arguments) - start) // step)


def _inside(program, computation, instruction):
  """Returns the operation inside a one-operation fusion, and its operands."""
  operands = [computation.by_name[o] for o in instruction.operands]
  if instruction.op != 'fusion':
    return instruction, operands
  inner = program.computations[instruction.called('calls')[0]]
  by_parameter = lambda i: (
    operands[int(i.arguments)] if i.op == 'parameter' else i
  )
  return inner.root, [
    by_parameter(inner.by_name[o]) for o in inner.root.operands
  ]


def _step(program, body, index):
  """Returns the increment of a loop's counter `index`, or None.

  It is not always 1: if an operand of a product is passed around the devices,
  the compiler unrolls two iterations into one.
  """
  value = _element(body, body.root, index)
  if value is None:
    return None
  op, operands = _inside(program, body, value)
  if op.op != 'add':
    return None
  constants = [
    c for c in (_constant(body, o) for o in operands) if c is not None
  ]
  return constants[0] if len(constants) == 1 else None


def _element(computation, state, index):
  """Returns the instruction of a tuple element, or None."""
  if state.op != 'tuple':
    return None
  return _uncopied(computation, computation.by_name[state.operands[index]])


def _uncopied(computation, value):
  while value.op in ('copy', 'copy-start', 'copy-done', 'bitcast'):
    value = computation.by_name[value.operands[0]]
  return value


def _constant(computation, value):
  """Returns the value of a constant, or None if it is not constant."""
  if value is None:
    return None
  if value.name in computation.by_name:  # Otherwise it is inside a fusion.
    value = _uncopied(computation, value)
  return int(value.arguments) if value.op == 'constant' else None
