"""Counts the operations of a compiled program from its text.

XLA's own cost_analysis() counts the body of a loop once, however often it runs.
"""

from collections.abc import Callable
import functools
import math
import re

import numpy as np

from kd.planning.hlo import hlo_text

# What calls a computation, once for each time that it runs itself.
_CALLS = {
  'async-start': 'calls',
  'call': 'to_apply',
}
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def flops(text: str, unknown_trips: int | None) -> int:
  """Floating point operations of all products: 2 for each multiply-add.

  Counts dots and convolutions (the TPU's compiler makes these of dots), those
  within fusions too; a loop's body times its trips; of a conditional the most
  expensive branch. Custom calls count as nothing: a kernel's operations are not
  in the text.

  Args:
    text: from `compiled.as_text()`.
    unknown_trips: how often loops run whose count depends on data, or None if
      there are none.

  Returns:
    Operations of one device.

  Raises:
    ValueError: there is such a loop, and unknown_trips is None.
  """
  program = hlo_text.parse(text)
  return total(program, functools.partial(_products, program), unknown_trips)


Count = Callable[[hlo_text.Computation, hlo_text.Instruction], float]


def total(
  program: hlo_text.Program, count: Count, unknown_trips: int | None
) -> float:
  """A sum over every instruction that a program runs, as often as it does.

  Args:
    program: from hlo_text.parse.
    count: what an instruction adds by itself; not asked for loops, branches
      and calls, whose insides are counted.
    unknown_trips: see flops.

  Raises:
    ValueError: see flops.
  """

  @functools.cache
  def inside(name):
    computation = program.computations[name]
    return sum(one(computation, i) for i in computation.instructions)

  def one(computation, instruction):
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
      raise ValueError(f'how often {instruction.name} runs depends on data')
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
  """2 x outputs x inputs of each, without what meets padding or holes.

  A batched dot is a convolution whose dilated input meets each batch's kernel
  alone: counting holes would count it once for each pair of batches.
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
  meetings = math.prod(
    _meetings(lhs[str(d)], out[str(d)], *(w[d] for w in window))
    for d in range(len(lhs) - 2)
  )
  return 2 * out['b'] * out['f'] * rhs['i'] * meetings


def _window(instruction):
  """Sizes, strides, low paddings, input's and kernel's dilations by axis."""
  axes = len(instruction.attribute('dim_labels').split('_')[0]) - 2
  text = instruction.attribute('window')

  def field(name, otherwise):
    found = re.search(rf'\b{name}=([\d_x\-]+)', text)
    parts = found[1].split('x') if found else [otherwise] * axes
    return [int(part.split('_')[0]) for part in parts]

  names = ('size', 'stride', 'pad', 'lhs_dilate', 'rhs_dilate')
  return [field(name, '0' if name == 'pad' else '1') for name in names]


def _meetings(inputs, outputs, size, stride, low, dilation, kernel_dilation):
  """How often an input and a place of the kernel meet along one axis."""
  starts = np.arange(outputs)[:, None] * stride - low
  places = starts + np.arange(size) * kernel_dilation
  inside = (places >= 0) & (places <= (inputs - 1) * dilation)
  return int(np.sum(inside & (places % dilation == 0)))


def _branches(instruction):
  names = ('branch_computations', 'true_computation', 'false_computation')
  return [c for name in names for c in instruction.called(name)]


def _trip_count(program, computation, loop):
  """How often a loop runs, or None if that depends on data."""
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
  (place,) = counter.integers('index')
  state = computation.by_name[loop.operands[0]]
  start = _constant(computation, _element(computation, state, place))
  step = _step(program, body, place)
  if start is None or step is None:
    return None
  return -(-(int(stop.arguments) - start) // step)


def _inside(program, computation, instruction):
  """What a fusion of one operation does, and to which operands of it."""
  operands = [computation.by_name[o] for o in instruction.operands]
  if instruction.op != 'fusion':
    return instruction, operands
  inner = program.computations[instruction.called('calls')[0]]
  by_parameter = lambda i: (
    operands[int(i.arguments)] if i.op == 'parameter' else i
  )
  found = [by_parameter(inner.by_name[o]) for o in inner.root.operands]
  return inner.root, found


def _step(program, body, place):
  """What a loop's body adds to element `place` of its state, or None.

  Not always 1: loops that the compiler makes of a product whose operand goes
  round the devices do two rounds in one.
  """
  value = _element(body, body.root, place)
  if value is None:
    return None
  op, operands = _inside(program, body, value)
  if op.op != 'add':
    return None
  constants = [
    c for c in (_constant(body, o) for o in operands) if c is not None
  ]
  return constants[0] if len(constants) == 1 else None


def _element(computation, state, place):
  """Returns the instruction that gives an element of a tuple, or None."""
  if state.op != 'tuple':
    return None
  return _uncopied(computation, computation.by_name[state.operands[place]])


def _uncopied(computation, value):
  while value.op in ('copy', 'copy-start', 'copy-done', 'bitcast'):
    value = computation.by_name[value.operands[0]]
  return value


def _constant(computation, value):
  """Returns the number that an instruction is, or None."""
  if value is None:
    return None
  if value.name in computation.by_name:  # Else it is within a fusion.
    value = _uncopied(computation, value)
  return int(value.arguments) if value.op == 'constant' else None
