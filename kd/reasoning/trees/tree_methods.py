"""The orders in which a tree's states are expanded."""

from collections.abc import Callable, Sequence
import heapq
from typing import Protocol

from kd.reasoning.trees import tree as tree_lib

Nodes = Sequence[tree_lib.Node]


class Method(Protocol):
  """Keeps the states that wait, and says which are next."""

  def next(self) -> list[tree_lib.Node]:
    """States that are to be expanded together; [] when none waits."""

  def add(self, nodes: Nodes) -> None:
    """States that were made by expanding the last ones, with their values.

    Those that will not be expanded get the status 'beyond'.
    """


def _best(nodes: Nodes) -> list[tree_lib.Node]:
  """The highest value first; of equal ones the one that was made first."""
  return sorted(nodes, key=lambda node: (-node.value, node.id))


def _keep(nodes: Nodes, breadth: int) -> list[tree_lib.Node]:
  best = _best(nodes)
  for node in best[breadth:]:
    node.status = 'beyond'
  return best[:breadth]


class Beam:
  """Level by level, the best of each level (breadth-first)."""

  def __init__(self, breadth: int):
    self._breadth, self._level = breadth, []

  def next(self) -> list[tree_lib.Node]:
    level, self._level = self._level, []
    return level

  def add(self, nodes: Nodes) -> None:
    self._level = _keep(nodes, self._breadth)


class DepthFirst:
  """The best thought first, and back to the next best where it ends."""

  def __init__(self, breadth: int):
    self._breadth, self._stack = breadth, []

  def next(self) -> list[tree_lib.Node]:
    return [self._stack.pop()] if self._stack else []

  def add(self, nodes: Nodes) -> None:
    self._stack += _keep(nodes, self._breadth)[::-1]


class BestFirst:
  """The best states that wait anywhere in the tree."""

  def __init__(self, breadth: int):
    self._breadth, self._heap = breadth, []

  def next(self) -> list[tree_lib.Node]:
    count = min(self._breadth, len(self._heap))
    return [heapq.heappop(self._heap)[-1] for _ in range(count)]

  def add(self, nodes: Nodes) -> None:
    for node in nodes:
      # The id decides between equal values: nodes are never compared.
      heapq.heappush(self._heap, (-node.value, node.id, node))


METHODS: dict[str, Callable[[int], Method]] = {
  'beam': Beam,
  'depth_first': DepthFirst,
  'best_first': BestFirst,
}
