"""A tree of thoughts: its nodes, what it cost, and its file."""

from collections.abc import Iterator
import dataclasses
import hashlib
import json
from typing import Any

# What became of a node.
STATUSES = {
  'open': 'not expanded when the search ended',
  'expanded': 'its thoughts were proposed',
  'solution': 'terminal and right',
  'failed': 'terminal and wrong',
  'pruned': 'its value is too low',
  'beyond': 'its level or parent has enough better ones',
  'deep': 'a path may have no more thoughts',
  'same': 'an equal state came before',
  'fault': 'its thought is none',
}


@dataclasses.dataclass
class Node:
  """A thought, and the state behind it.

  Attributes:
    id: 0 for the root, rising in the order of making.
    parent: the id of the state it was thought in; -1 for the root.
    depth: thoughts before and with it.
    thought: the line; as the model wrote it for a fault.
    value: from 0 to 1, None if nobody was asked.
    status: a key of STATUSES.
    count: how often it was proposed in its parent's state.
    logprob: the model's, of the thought, in nats; None for enumerated ones.
    fault: what is wrong, a key of tree_problem.FAULTS; '' if nothing is.
    same_as: the id of the equal state for status 'same', else -1.
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
class Spent:
  """What a tree has cost so far.

  Attributes:
    calls: completions that the model was asked for.
    prompt_tokens: read; once a request, whatever its number of samples.
    new_tokens: generated, stop ids included.
  """

  calls: int = 0
  prompt_tokens: int = 0
  new_tokens: int = 0

  @property
  def tokens(self) -> int:
    return self.prompt_tokens + self.new_tokens


@dataclasses.dataclass
class Tree:
  """The search of one instance.

  Attributes:
    instance: its id.
    question: what was given.
    answer: the right answer, or ''.
    nodes: by id.
    spent: calls and tokens.
    faults: how many texts were wrong, by kind.
    stopped: the budget that ended the search: 'calls', 'tokens' or 'nodes';
      '' if it came to its end.
  """

  instance: str
  question: str
  answer: str
  nodes: list[Node] = dataclasses.field(default_factory=list)
  spent: Spent = dataclasses.field(default_factory=Spent)
  faults: dict[str, int] = dataclasses.field(default_factory=dict)
  stopped: str = ''

  @property
  def solutions(self) -> list[Node]:
    return [node for node in self.nodes if node.status == 'solution']

  def path(self, node: Node) -> list[Node]:
    """Returns the nodes from the first thought to this one."""
    found = []
    while node.parent >= 0:
      found.append(node)
      node = self.nodes[node.parent]
    return found[::-1]

  def children(self, parent: int) -> Iterator[Node]:
    """In the order of making."""
    return (node for node in self.nodes if node.parent == parent)

  def count_fault(self, kind: str) -> None:
    self.faults[kind] = self.faults.get(kind, 0) + 1

  def to_json(self) -> str:
    """Returns the tree's file; equal trees give equal bytes."""
    return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + '\n'


def from_json(text: str) -> Tree:
  """What to_json wrote.

  Raises:
    ValueError, KeyError, TypeError: the text is something else.
  """
  values: dict[str, Any] = json.loads(text)
  nodes = [Node(**node) for node in values.pop('nodes')]
  return Tree(nodes=nodes, spent=Spent(**values.pop('spent')), **values)


def seed(*names: object) -> int:
  """Returns a number below 2^31 from names: equal names give equal numbers."""
  text = '/'.join(str(name) for name in names)
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1
