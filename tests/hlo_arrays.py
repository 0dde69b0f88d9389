"""Lists the arrays of a compiled program, for tests of their size."""

import dataclasses

from kd.planning.hlo import hlo_text

_BRANCHES = ('branch_computations', 'true_computation', 'false_computation')
# Attributes of each operation that name computations with arrays in memory.
_CALLS = {'while': ('body',), 'conditional': _BRANCHES, 'call': ('to_apply',)}


@dataclasses.dataclass(frozen=True, order=True)
class Array:
  """An array that exists while a program runs.

  Attributes:
    elements: number of elements.
    dtype: dtype in HLO's notation, such as 'f32'.
    shape: shape on one device.
    op: operation that writes it.
    computation: computation that writes it: the entry, a loop's body, a branch.
  """

  elements: int
  dtype: str
  shape: tuple[int, ...]
  op: str
  computation: str


def largest(text: str) -> list[Array]:
  """Returns every array that a program writes to memory, the largest first.

  Values inside a fusion are never written and are not included.

  Args:
    text: result of `compiled.as_text()`.
  """
  program = hlo_text.parse(text)
  arrays, waiting, seen = set(), [program.entry], set()
  while waiting:
    computation = program.computations[waiting.pop()]
    if computation.name in seen:
      continue
    seen.add(computation.name)
    for i in computation.instructions:
      arrays.update(
        Array(a.elements, a.dtype, a.shape, i.op, computation.name)
        for a in i.arrays
      )
      for attribute in _CALLS.get(i.op, ()):
        waiting += i.called(attribute)
  return sorted(arrays, reverse=True)
