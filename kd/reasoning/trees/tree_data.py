"""Writes training data from trees: paths, preference pairs and branches.

paths.jsonl     the path to a solution as one rationale
pairs.jsonl     a good and a bad thought of the same state
branches.jsonl  one of several thoughts of a state, for a teacher to score

Paths and branches have the fields of a task: inputs, targets, and the rationale
that the targets start with. The rationale of a branch is the previous thoughts,
so that a loss term with part 'answer' covers only the thought: a teacher that
scores the row provides its distribution at the branching point.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import json
import os
from typing import Any

from kd.reasoning.trees import tree as tree_lib
from kd.reasoning.trees import tree_problem

FILES = ('paths.jsonl', 'pairs.jsonl', 'branches.jsonl')
# Prefix of a thought that a rationale mentions and rejects.
REJECTED_PREFIX = 'not '

Record = dict[str, Any]


class Reader:
  """A tree with the states of its nodes and which of them are good or bad."""

  def __init__(
    self,
    problem: tree_problem.TreeProblem,
    instance: tree_problem.Instance,
    tree: tree_lib.Tree,
  ):
    """Applies all thoughts of a tree to restore its states.

    Args:
      problem: the problem of the tree.
      instance: the instance of the tree.
      tree: a finished tree.
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
    # In reverse, children come before parents, and duplicates before the
    # state that they equal.
    for node in reversed(tree.nodes):
      self._bad[node.id] = self._leads_nowhere(node)

  def children(self, node: tree_lib.Node) -> list[tree_lib.Node]:
    return self._children.get(node.id, [])

  def is_bad(self, node: tree_lib.Node) -> bool:
    """Returns whether the search found that a node leads to no solution."""
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

  def rejection_reason(self, node: tree_lib.Node) -> str:
    """Returns why a node is bad: a fault, a status or 'led_nowhere'."""
    if node.fault:
      return node.fault
    if node.status == 'same':
      node = self.tree.nodes[node.same_as]
    return 'led_nowhere' if node.status == 'expanded' else node.status


def paths(reader: Reader, contrast: int) -> Iterator[Record]:
  """Yields a record for each solution, in the order of the search.

  Args:
    reader: the reader of a tree.
    contrast: maximum number of bad thoughts mentioned before each good one.
  """
  problem, tree = reader.problem, reader.tree
  for node in tree.solutions:
    lines = []
    for step in tree.path(node):
      siblings = reader.children(tree.nodes[step.parent])
      bad = [s for s in siblings if s.status != 'fault' and reader.is_bad(s)]
      lines += [f'{REJECTED_PREFIX}{s.thought}' for s in bad[:contrast]]
      lines.append(step.thought)
    state = reader.states[node.id]
    plain = tree_problem.text_so_far(state)
    thoughts = ''.join(f'{line}\n' for line in lines)
    targets = thoughts + problem.targets(state).removeprefix(plain)
    yield {
      'id': f'{tree.instance}-{node.id}',
      'inputs': problem.inputs(reader.instance),
      'targets': targets,
      # Excludes the last thought if it is the answer.
      'rationale': _rationale(thoughts, targets),
      'answer': problem.answer(state),
      'tree': tree.instance,
      'nodes': [step.id for step in tree.path(node)],
      'calls': tree.spent.calls,
    }


def _rationale(thoughts, targets):
  if thoughts.rstrip('\n') != targets:
    return thoughts.rstrip('\n')
  return targets.rpartition('\n')[0]


def pairs(reader: Reader) -> Iterator[Record]:
  """Yields a record for each pair of a good and a bad thought of a state."""
  tree = reader.tree
  for node in tree.nodes:
    children = reader.children(node)
    good = [c for c in children if c.id in reader.good]
    bad = [c for c in children if c.id not in reader.good and reader.is_bad(c)]
    before = tree_problem.text_so_far(reader.states[node.id]) if good else ''
    for chosen in good:
      for rejected in bad:
        yield {
          'id': f'{tree.instance}-{chosen.id}-{rejected.id}',
          'prompt': reader.problem.inputs(reader.instance),
          'chosen': f'{before}{chosen.thought}\n',
          'rejected': f'{before}{rejected.thought}\n',
          'shared': len(before),
          'why': reader.rejection_reason(rejected),
          'tree': tree.instance,
        }


def branches(reader: Reader) -> Iterator[Record]:
  """Yields a record for each thought of a state that has two or more."""
  tree = reader.tree
  for node in tree.nodes:
    children = [c for c in reader.children(node) if not c.fault]
    if len(children) < 2:
      continue
    before = tree_problem.text_so_far(reader.states[node.id])
    total = sum(child.count for child in children)
    for child in children:
      yield {
        'id': f'{tree.instance}-{child.id}',
        'inputs': reader.problem.inputs(reader.instance),
        'targets': before + child.thought,
        'rationale': before.rstrip('\n'),
        # A branch has no answer yet; the task of traces requires the field.
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
  """Writes FILES and returns the number of records of each.

  Args:
    folder: the output folder.
    readers: the readers of the trees; consumed one at a time.
    contrast: see `paths`.
    provenance: fields added to every record.
  """
  counts = dict.fromkeys(FILES, 0)
  temporary = {name: os.path.join(folder, f'{name}.tmp') for name in FILES}
  with contextlib.ExitStack() as stack:
    files = {
      name: stack.enter_context(open(path, 'w', encoding='utf-8'))
      for name, path in temporary.items()
    }
    for reader in readers:
      records_by_file = paths(reader, contrast), pairs(reader), branches(reader)
      for name, records in zip(FILES, records_by_file, strict=True):
        for record in records:
          files[name].write(json.dumps({**record, **provenance}) + '\n')
          counts[name] += 1
  for name, path in temporary.items():
    os.replace(path, os.path.join(folder, name))
  return counts
