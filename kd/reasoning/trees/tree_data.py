"""Training data from trees: paths, pairs, and branches to be scored.

paths.jsonl     a path to a solution as one linear rationale
pairs.jsonl     a good and a bad thought of one state
branches.jsonl  a thought of a state that has several: a row for a teacher

Paths and branches have what the project's tasks have, inputs, targets, and the
rationale that the targets begin with. In a branch the rationale is what was
thought before, so that a loss term of part 'answer' is on the thought alone:
the teacher that scores the row, live or from a cache, gives its own
distribution at the branching point.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import json
import os
from typing import Any

from kd.reasoning.trees import tree as tree_lib
from kd.reasoning.trees import tree_problem

FILES = ('paths.jsonl', 'pairs.jsonl', 'branches.jsonl')
# Before a thought that a rationale tells of and does not go on with.
NOT = 'not '

Record = dict[str, Any]


class Reader:
  """A tree with its states, and what is known of each node."""

  def __init__(
    self,
    problem: tree_problem.TreeProblem,
    instance: tree_problem.Instance,
    tree: tree_lib.Tree,
  ):
    """Thinks the tree's thoughts once more.

    Args:
      problem: the tree's.
      instance: the tree's.
      tree: finished.
    """
    self.problem, self.instance, self.tree = problem, instance, tree
    self.states = {0: problem.root(instance)}
    self._children: dict[int, list[tree_lib.Node]] = {}
    for node in tree.nodes[1:]:
      self._children.setdefault(node.parent, []).append(node)
      if not node.fault:
        before = self.states[node.parent]
        self.states[node.id] = problem.apply(before, node.thought)
    self.good = {step.id for node in tree.solutions for step in tree.path(node)}
    self._bad: dict[int, bool] = {}
    # Children come after their parents, and an equal state before its like.
    for node in reversed(tree.nodes):
      self._bad[node.id] = self._leads_nowhere(node)

  def children(self, node: tree_lib.Node) -> list[tree_lib.Node]:
    return self._children.get(node.id, [])

  def bad(self, node: tree_lib.Node) -> bool:
    """Whether nothing good can come of a node, as far as the search knows."""
    if node.status == 'same':
      node = self.tree.nodes[node.same_as]
    return self._bad[node.id]

  def _leads_nowhere(self, node):
    if node.status == 'expanded':
      children = self.children(node)
      return all(
        self._bad[c.id] for c in children if c.status != 'same'
      ) and not any(c.status == 'same' for c in children)
    return node.status in ('fault', 'failed', 'pruned')

  def why(self, node: tree_lib.Node) -> str:
    """What speaks against a bad node, in a word."""
    if node.fault:
      return node.fault
    if node.status == 'same':
      node = self.tree.nodes[node.same_as]
    return 'led_nowhere' if node.status == 'expanded' else node.status


def paths(reader: Reader, contrast: int) -> Iterator[Record]:
  """Yields a record for each solution, in the order they were found.

  Args:
    reader: of a tree.
    contrast: bad thoughts that are told of before each good one, at most.
  """
  problem, tree = reader.problem, reader.tree
  for node in tree.solutions:
    lines = []
    for step in tree.path(node):
      siblings = reader.children(tree.nodes[step.parent])
      bad = [s for s in siblings if s.status != 'fault' and reader.bad(s)]
      lines += [f'{NOT}{s.thought}' for s in bad[:contrast]]
      lines.append(step.thought)
    state = reader.states[node.id]
    plain = tree_problem.written(state)
    told = ''.join(f'{line}\n' for line in lines)
    targets = told + problem.targets(state).removeprefix(plain)
    yield {
      'id': f'{tree.instance}-{node.id}',
      'inputs': problem.inputs(reader.instance),
      'targets': targets,
      # A last thought that is the answer is no rationale.
      'rationale': _rationale(told, targets),
      'answer': problem.answer(state),
      'tree': tree.instance,
      'nodes': [step.id for step in tree.path(node)],
      'calls': tree.spent.calls,
    }


def _rationale(told, targets):
  if told.rstrip('\n') != targets:
    return told.rstrip('\n')
  return targets.rpartition('\n')[0]


def pairs(reader: Reader) -> Iterator[Record]:
  """A record for each good thought and each bad one of the same state."""
  tree = reader.tree
  for node in tree.nodes:
    children = reader.children(node)
    good = [c for c in children if c.id in reader.good]
    bad = [c for c in children if c.id not in reader.good and reader.bad(c)]
    before = tree_problem.written(reader.states[node.id]) if good else ''
    for chosen in good:
      for rejected in bad:
        yield {
          'id': f'{tree.instance}-{chosen.id}-{rejected.id}',
          'prompt': reader.problem.inputs(reader.instance),
          'chosen': f'{before}{chosen.thought}\n',
          'rejected': f'{before}{rejected.thought}\n',
          'shared': len(before),
          'why': reader.why(rejected),
          'tree': tree.instance,
        }


def branches(reader: Reader) -> Iterator[Record]:
  """Yields a record for each thought of a state that has two or more."""
  tree = reader.tree
  for node in tree.nodes:
    children = [c for c in reader.children(node) if not c.fault]
    if len(children) < 2:
      continue
    before = tree_problem.written(reader.states[node.id])
    total = sum(child.count for child in children)
    for child in children:
      yield {
        'id': f'{tree.instance}-{child.id}',
        'inputs': reader.problem.inputs(reader.instance),
        'targets': before + child.thought,
        'rationale': before.rstrip('\n'),
        # None is given yet; rows of the traces' task have the field.
        'answer': '',
        'tree': tree.instance,
        'node': node.id,
        'share': child.count / total,
        'value': child.value,
        'logprob': child.logprob,
        'good': child.id in reader.good,
      }


def write(
  folder: str,
  readers: Iterable[Reader],
  contrast: int,
  provenance: Mapping[str, Any],
) -> dict[str, int]:
  """Writes FILES; returns how many records each holds.

  Args:
    folder: where.
    readers: of the trees, one at a time.
    contrast: as for `paths`.
    provenance: added to every record.
  """
  counts = dict.fromkeys(FILES, 0)
  aside = {name: os.path.join(folder, f'{name}.tmp') for name in FILES}
  with contextlib.ExitStack() as stack:
    files = {
      name: stack.enter_context(open(path, 'w', encoding='utf-8'))
      for name, path in aside.items()
    }
    for reader in readers:
      made = paths(reader, contrast), pairs(reader), branches(reader)
      for name, records in zip(FILES, made, strict=True):
        for record in records:
          files[name].write(json.dumps({**record, **provenance}) + '\n')
          counts[name] += 1
  for name, path in aside.items():
    os.replace(path, os.path.join(folder, name))
  return counts
