"""Parses the text of a compiled program (HLO) into computations."""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re

_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_END = re.compile(r'^\}(,|$)')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = ')
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?')
_SPACE = re.compile(r'S\((\d+)\)')
_DTYPE = re.compile(r'(?:s|u|f|bf|c)(\d+)(?:e\d+m\d+\w*)?')
_COMMENT = re.compile(r'/\*.*?\*/')


@dataclasses.dataclass(frozen=True)
class Array:
  """The type of an array.

  Attributes:
    dtype: data type in HLO's notation, such as 'f32'.
    shape: shape on one device.
    space: memory space: 0 is HBM, others are on the chip.
  """

  dtype: str
  shape: tuple[int, ...]
  space: int

  @property
  def elements(self) -> int:
    return math.prod(self.shape)

  @property
  def bytes(self) -> float:
    """Returns bytes without tile padding; 0 for tokens and opaque values."""
    return self.elements * _bits(self.dtype) / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: name of the result.
    arrays: types of the result; several if it is a tuple.
    op: the operation: 'dot', 'fusion', ...
    arguments: the text in parentheses.
    attributes: the text after the parentheses.
  """

  name: str
  arrays: tuple[Array, ...]
  op: str
  arguments: str
  attributes: str

  @property
  def operands(self) -> list[str]:
    return re.findall(r'%([\w.\-]+)', self.arguments)

  def attribute(self, name: str) -> str:
    """Returns the text of the attribute `name=...`, or ''."""
    match = re.search(rf'\b{name}=(\{{[^}}]*\}}|[^\s]+?)(,|$)', self.attributes)
    return match.group(1) if match else ''

  def integers(self, name: str) -> tuple[int, ...]:
    """Returns the numbers of an attribute like `dimensions={0,2}`."""
    return tuple(int(n) for n in re.findall(r'\d+', self.attribute(name)))

  def called(self, name: str) -> list[str]:
    """Returns the names of the computations in an attribute."""
    return re.findall(r'%([\w.\-]+)', self.attribute(name))


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
  """The instructions of a computation in order.

  In HLO the marked root may be anywhere; here it is always the last one.
  """

  name: str
  instructions: tuple[Instruction, ...]

  @functools.cached_property
  def by_name(self) -> dict[str, Instruction]:
    return {i.name: i for i in self.instructions}

  @property
  def root(self) -> Instruction:
    return self.instructions[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """A program: its computations by name, and the name of the entry."""

  computations: dict[str, Computation]
  entry: str


@functools.cache
def _bits(dtype):
  """Returns the bits of a value: 4 for 's4', 16 for 'bf16'; 0 if unknown."""
  if dtype == 'pred':
    return 8
  kind = _DTYPE.fullmatch(dtype)
  return int(kind[1]) if kind else 0


def parse(text: str) -> Program:
  """Parses the text from `compiled.as_text()`.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations, entry = {}, None
  for is_entry, name, lines in _blocks(text):
    computations[name] = _computation(name, lines)
    if is_entry:
      entry = name
  if entry is None:
    raise ValueError('no ENTRY computation: is this the text of a program?')
  return Program(computations, entry)


def _blocks(text: str) -> Iterator[tuple[bool, str, list[str]]]:
  header, lines = None, []
  for line in text.splitlines():
    if header is None:
      header = _HEADER.match(line)
      lines = []
    elif _END.match(line):
      yield bool(header[1]), header[2], lines
      header = None
    elif lines and not _INSTRUCTION.match(line):
      lines[-1] += line  # The settings of a kernel span several lines.
    else:
      lines.append(line)


def _computation(name, lines):
  instructions, root = [], None
  for line in lines:
    match = _INSTRUCTION.match(line)
    if not match:
      continue
    instruction = _instruction(match[2], line[match.end() :])
    if match[1]:
      root = instruction
    else:
      instructions.append(instruction)
  return Computation(name, (*instructions, *([root] if root else [])))


def _instruction(name, text):
  text = _COMMENT.sub('', text)
  end = _end_of_type(text)
  arrays = tuple(_array(*match) for match in _ARRAY.findall(text[:end]))
  op, _, rest = text[end:].strip().partition('(')
  close = _closing(rest, 1)
  return Instruction(name, arrays, op, rest[:close], rest[close + 1 :])


def _array(dtype, shape, layout):
  space = _SPACE.search(layout)
  return Array(
    dtype,
    tuple(int(n) for n in re.findall(r'\d+', shape)),
    int(space[1]) if space else 0,
  )


def _end_of_type(text):
  """Returns the end of the type in `type op(...)`; tuples contain spaces."""
  return _closing(text[1:], 1) + 2 if text[0] == '(' else text.index(' ')


def _closing(text, depth):
  """Returns the index of the parenthesis that closes `depth` open ones."""
  for match in re.finditer(r'[()]', text):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return match.start()
  return len(text)
