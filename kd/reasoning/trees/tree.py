"""Defines a tree of thoughts: its nodes, its cost, and its file format."""

from collections.abc import Iterator
import dataclasses
import hashlib
import json
from typing import Any

# Final states of a node.
STATUSES = {
  'open': 'not expanded when the search ended',
  'expanded': 'its thoughts were proposed',
  'solution': 'terminal and right',
  'failed': 'terminal and wrong',
  'pruned': 'its value is too low',
  'beyond': 'its level or parent has enough better nodes',
  'deep': 'the path has the maximum number of thoughts',
  'same': 'an equal state already exists',
  'fault': 'its thought is invalid',
}


@dataclasses.dataclass
class Node:
  """A thought and the state after it.

  Attributes:
    id: 0 for the root; increases in order of creation.
    parent: id of the parent node; -1 for the root.
    depth: number of thoughts from the root, including this one.
    thought: the line; for an invalid thought, the text of the model.
    value: evaluation from 0 to 1; None if it was not evaluated.
    status: a key of STATUSES.
    count: number of times it was proposed in its parent's state.
    logprob: log-probability of the thought in nats; None for enumerated ones.
    fault: why the thought is invalid, a key of tree_problem.FAULTS; '' if it is
      valid.
    same_as: id of the equal state for status 'same', else -1.
  """

  id: int
  parent: int
  depth: int
  thought: str
  value: float | None = None
  status: str = 'open'
  count: int = 1
  logprob: float | None = None
  fault: str = ''
  same_as: int = -1


@dataclasses.dataclass
class Cost:
  """The cost of a tree so far.

  Attributes:
    calls: number of completions requested from the model.
    prompt_tokens: prompt tokens; counted once per request.
    new_tokens: generated tokens, including stop ids.
  """

  calls: int = 0
  prompt_tokens: int = 0
  new_tokens: int = 0

  @property
  def tokens(self) -> int:
    return self.prompt_tokens + self.new_tokens


@dataclasses.dataclass
class Tree:
  """The search tree of one instance.

  Attributes:
    instance: id of the instance.
    question: the question.
    answer: the reference answer, or ''.
    nodes: all nodes, indexed by id.
    spent: cost in calls and tokens.
    faults: number of invalid texts by kind.
    stopped: the budget that ended the search: 'calls', 'tokens' or 'nodes';
      '' if the search finished.
  """

  instance: str
  question: str
  answer: str
  nodes: list[Node] = dataclasses.field(default_factory=list)
  spent: Cost = dataclasses.field(default_factory=Cost)
  faults: dict[str, int] = dataclasses.field(default_factory=dict)
  stopped: str = ''

  @property
  def solutions(self) -> list[Node]:
    return [node for node in self.nodes if node.status == 'solution']

  def path(self, node: Node) -> list[Node]:
    """Returns the nodes from the first thought to this one."""
    nodes = []
    while node.parent >= 0:
      nodes.append(node)
      node = self.nodes[node.parent]
    return nodes[::-1]

  def children(self, parent: int) -> Iterator[Node]:
    """Yields the children of a node in order of creation."""
    return (node for node in self.nodes if node.parent == parent)

  def count_fault(self, kind: str) -> None:
    self.faults[kind] = self.faults.get(kind, 0) + 1

  def to_json(self) -> str:
    """Returns the tree as JSON; equal trees give equal text."""
    return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + '\n'


def from_json(text: str) -> Tree:
  """Parses the JSON of Tree.to_json.

  Raises:
    ValueError, KeyError, TypeError: the text is not a tree.
  """
  values: dict[str, Any] = json.loads(text)
  nodes = [Node(**node) for node in values.pop('nodes')]
  return Tree(nodes=nodes, spent=Cost(**values.pop('spent')), **values)


def seed(*names: object) -> int:
  """Returns a seed below 2^31 that is determined by the names."""
  text = '/'.join(str(name) for name in names)
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1
