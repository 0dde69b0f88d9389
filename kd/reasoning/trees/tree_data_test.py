"""Tests training data and pictures against the trees and the rules."""

import json
from xml.etree import ElementTree

import pytest

from kd.reasoning.trees import game24
from kd.reasoning.trees import game24_answers
from kd.reasoning.trees import tree as tree_lib
from kd.reasoning.trees import tree_data
from kd.reasoning.trees import tree_picture
from kd.reasoning.trees import tree_problem
from kd.reasoning.trees import tree_search_test as searches

GAME = game24.Game24()


def _tree(answer=searches.player, question='4 6 1 1', **changes):
  the_plan = searches.plan(solutions=0, **changes)
  return searches.grow(GAME, the_plan, answer, question)[0]


def _reader(tree):
  instance = tree_problem.Instance(tree.instance, tree.question, tree.answer)
  return tree_data.Reader(GAME, instance, tree)


@pytest.fixture(scope='module')
def sampled():
  """Returns a tree with faults, equal states, solutions and dead ends."""
  bad = searches.sample('9 * 9 = 81')

  def answer(prompt, request):
    return [bad, *searches.player(prompt, request)][: request.samples]

  tree = _tree(answer, samples=12, breadth=6)
  statuses = {node.status for node in tree.nodes}
  assert statuses >= {'solution', 'failed', 'pruned', 'same', 'fault'}
  return tree


def test_paths_are_correct_and_linear(sampled):
  records = list(tree_data.paths(_reader(sampled), contrast=0))
  assert len(records) == len(sampled.solutions)
  assert len({record['id'] for record in records}) == len(records)
  for record in records:
    assert record['inputs'] == 'Make 24: 4 6 1 1\n'
    assert game24_answers.check('4 6 1 1', record['targets']).right
    work, marker, _ = record['targets'].rpartition('\n#### ')
    assert marker and work == record['rationale']
    state = GAME.root(tree_problem.Instance('', '4 6 1 1', ''))
    for line in work.splitlines():
      state = GAME.apply(state, line)
    assert GAME.is_solution(state)


def test_contrast_adds_rejected_branches(sampled):
  reader = _reader(sampled)
  plain = {r['id']: r for r in tree_data.paths(reader, contrast=0)}
  rejected = 0
  for record in tree_data.paths(reader, contrast=2):
    lines = record['rationale'].splitlines()
    good = [
      line for line in lines if not line.startswith(tree_data.REJECTED_PREFIX)
    ]
    assert good == plain[record['id']]['rationale'].splitlines()
    assert record['targets'].startswith(record['rationale'] + '\n#### ')
    state = GAME.root(reader.instance)
    for line in lines:
      if line.startswith(tree_data.REJECTED_PREFIX):
        rejected += 1
        lost = GAME.apply(state, line.removeprefix(tree_data.REJECTED_PREFIX))
        assert not GAME.verify(lost)
      else:
        state = GAME.apply(state, line)
  assert rejected


def test_pairs_are_a_good_and_a_bad_thought_of_one_state(sampled):
  records = list(tree_data.pairs(_reader(sampled)))
  reasons = {record['why'] for record in records}
  assert reasons >= {'pruned', 'not_left'}
  for record in records:
    chosen, rejected = record['chosen'], record['rejected']
    before = chosen[: record['shared']]
    assert rejected.startswith(before) and chosen != rejected
    state = GAME.root(tree_problem.Instance('', '4 6 1 1', ''))
    for line in before.splitlines():
      state = GAME.apply(state, line)
    good = GAME.apply(state, chosen.removeprefix(before).strip())
    assert GAME.verify(good)
    try:
      lost = GAME.apply(state, rejected.removeprefix(before).strip())
    except tree_problem.Fault:
      continue
    assert not GAME.verify(lost)


def test_branches_are_rows_for_a_teacher(sampled):
  records = list(tree_data.branches(_reader(sampled)))
  by_state = {}
  for record in records:
    node = sampled.nodes[int(record['id'].rpartition('-')[2])]
    assert record['targets'].endswith(node.thought)
    before = record['targets'].removesuffix(node.thought)
    assert record['rationale'] == before.strip('\n')
    assert record['good'] in (False, True) and node.parent == record['node']
    by_state.setdefault(record['node'], []).append(record['share'])
    siblings = [n for n in sampled.children(node.parent) if not n.fault]
    total = sum(sibling.count for sibling in siblings)
    assert record['share'] == node.count / total
  assert len(by_state) > 3
  assert any(max(shares) > min(shares) for shares in by_state.values())
  for shares in by_state.values():
    assert len(shares) > 1 and sum(shares) == pytest.approx(1)


def test_unfinished_branches_are_neither_good_nor_bad():
  tree = _tree(evaluator='likelihood', max_calls=18, breadth=2)
  assert tree.stopped
  reader = _reader(tree)
  for node in tree.nodes:
    if node.status in ('open', 'beyond'):
      assert not reader.is_bad(node)


def test_files_are_json_lines_with_provenance(sampled, tmp_path):
  counts = tree_data.write(str(tmp_path), [_reader(sampled)], 1, {'model': 'm'})
  for name, count in counts.items():
    lines = (tmp_path / name).read_text().splitlines()
    assert len(lines) == count > 0
    assert all(json.loads(line)['model'] == 'm' for line in lines)


def test_trees_are_read_back_from_files(sampled):
  text = sampled.to_json()
  again = tree_lib.from_json(text)
  assert again == sampled and again.to_json() == text


def _pictured(tree):
  root = ElementTree.fromstring(tree_picture.draw(tree, 'a < b & "c"'))
  space = '{http://www.w3.org/2000/svg}'
  texts = [t.text or '' for t in root.iter(f'{space}text')]
  boxes = [
    tuple(float(r.get(k)) for k in ('x', 'y', 'width', 'height'))
    for r in root.iter(f'{space}rect')
    if r.get('rx')
  ]
  return root, texts, boxes


def test_pictures_contain_every_path_and_load_no_resources(sampled):
  root, texts, boxes = _pictured(sampled)
  text = ElementTree.tostring(root).decode()
  assert 'href' not in text and '<script' not in text and 'url(' not in text
  assert texts[0] == 'a < b & "c"' and '4 6 1 1' in texts
  for node in sampled.solutions:
    for step in sampled.path(node):
      assert step.thought in texts
  width, height = float(root.get('width')), float(root.get('height'))
  for x, y, w, h in boxes:
    assert min(x, y) >= 0 and x + w <= width and y + h <= height
  for i, (x, y, _, h) in enumerate(boxes):
    for other_x, other_y, *_ in boxes[:i]:
      assert x != other_x or abs(y - other_y) >= h


def test_large_trees_are_truncated_with_a_note():
  tree = _tree(None, proposals='enumerated', breadth=99, deduplicate=False)
  for node in tree.nodes[1:]:
    node.status = 'expanded'
  _, texts, boxes = _pictured(tree)
  assert len(boxes) < 3 * tree_picture.MAX_ROWS
  assert any('are not drawn' in text for text in texts)


def test_model_text_in_a_picture_is_escaped():
  evil = '<script>alert(1)</script>\x00\x1b\ud800'
  answer = lambda prompt, request: [searches.sample('x')] * request.samples
  tree = _tree(answer)
  tree.nodes[1].thought = evil
  root, _, _ = _pictured(tree)
  assert '<script' not in ElementTree.tostring(root).decode()
