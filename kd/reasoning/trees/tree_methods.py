"""Chooses which states of a tree to expand next."""

from collections.abc import Callable, Sequence
import heapq
from typing import Protocol

from kd.reasoning.trees import tree as tree_lib

Nodes = Sequence[tree_lib.Node]


class Method(Protocol):
  """Keeps the unexpanded states and chooses the next ones."""

  def next(self) -> list[tree_lib.Node]:
    """Returns the states to expand together; [] if there are none."""

  def add(self, nodes: Nodes) -> None:
    """Adds the evaluated children of the states that `next` returned.

    States that will never be expanded get the status 'beyond'.
    """


def _best(nodes: Nodes) -> list[tree_lib.Node]:
  """Sorts nodes by decreasing value, then by id."""
  return sorted(nodes, key=lambda node: (-node.value, node.id))


def _keep(nodes: Nodes, breadth: int) -> list[tree_lib.Node]:
  best = _best(nodes)
  for node in best[breadth:]:
    node.status = 'beyond'
  return best[:breadth]


class Beam:
  """Beam search: expands the best states of each level."""

  def __init__(self, breadth: int):
    self._breadth, self._level = breadth, []

  def next(self) -> list[tree_lib.Node]:
    level, self._level = self._level, []
    return level

  def add(self, nodes: Nodes) -> None:
    self._level = _keep(nodes, self._breadth)


class DepthFirst:
  """Depth-first search: expands the best child first, then backtracks."""

  def __init__(self, breadth: int):
    self._breadth, self._stack = breadth, []

  def next(self) -> list[tree_lib.Node]:
    return [self._stack.pop()] if self._stack else []

  def add(self, nodes: Nodes) -> None:
    self._stack += _keep(nodes, self._breadth)[::-1]


class BestFirst:
  """Best-first search: expands the best states anywhere in the tree."""

  def __init__(self, breadth: int):
    self._breadth, self._heap = breadth, []

  def next(self) -> list[tree_lib.Node]:
    count = min(self._breadth, len(self._heap))
    return [heapq.heappop(self._heap)[-1] for _ in range(count)]

  def add(self, nodes: Nodes) -> None:
    for node in nodes:
      # The id breaks ties, so that nodes are never compared.
      heapq.heappush(self._heap, (-node.value, node.id, node))


METHODS: dict[str, Callable[[int], Method]] = {
  'beam': Beam,
  'depth_first': DepthFirst,
  'best_first': BestFirst,
}
