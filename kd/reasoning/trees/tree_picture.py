"""Draws a tree as a self-contained SVG file, from left to right."""

from collections.abc import Sequence
import dataclasses
import html
import re

from kd.reasoning.trees import tree as tree_lib
from kd.reasoning.trees import tree_problem

# Maximum rows of a picture; the rest of a larger tree is left out.
MAX_ROWS = 300
_ROW, _COLUMN, _BOX = 26, 330, 290  # Pixels: height, width, a box's width.
_LETTERS = 40  # Maximum length of a thought; the tooltip has the full text.
_TOP = 96
# Characters that are illegal in XML.
_ILLEGAL = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')
# Fill and edge colors by status.
_COLORS = {
  'open': ('#ffffff', '#8a8f98'),
  'expanded': ('#eaf1fb', '#3b6fb6'),
  'solution': ('#d9f2dd', '#1d7a35'),
  'failed': ('#fbe3e1', '#b3382c'),
  'pruned': ('#f6ece0', '#a3702a'),
  'beyond': ('#f4f4f5', '#9a9fa8'),
  'deep': ('#f4f4f5', '#9a9fa8'),
  'same': ('#f2ecf8', '#7b5aa6'),
  'fault': ('#fbe3e1', '#b3382c'),
}
# Leaves with these statuses are drawn as one box per parent and status.
_FOLDED = ('pruned', 'beyond', 'deep', 'same', 'fault', 'failed', 'open')


@dataclasses.dataclass
class _Box:
  """A drawn box: a node, or several leaves with the same status."""

  nodes: Sequence[tree_lib.Node]
  column: int
  row: float = 0.0
  below: list['_Box'] = dataclasses.field(default_factory=list)


def draw(tree: tree_lib.Tree, title: str) -> str:
  """Returns the picture of a tree as SVG without external references.

  Args:
    tree: the tree.
    title: the heading of the picture.
  """
  good = {s.id for node in tree.solutions for s in tree.path(node)}
  children: dict[int, list[tree_lib.Node]] = {}
  for node in tree.nodes[1:]:
    children.setdefault(node.parent, []).append(node)
  root = _boxes(tree.nodes[0], children, good)
  rows, hidden = _assign_rows(root)
  deepest = max(node.depth for node in tree.nodes)
  width = (deepest + 1) * _COLUMN + 20
  height = _TOP + (rows + 1) * _ROW
  parts = [
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
    f'height="{height}" viewBox="0 0 {width} {height}" '
    'font-family="Helvetica, Arial, sans-serif" font-size="12">',
    f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    *_heading(tree, title, hidden),
  ]
  parts += _edges(root, good)
  parts += _draw_boxes(root, tree.question)
  return '\n'.join([*parts, '</svg>']) + '\n'


def _escape(text: str) -> str:
  return html.escape(_ILLEGAL.sub('\ufffd', text))


def _boxes(root, children, good):
  """Returns the boxes of a tree; branches with solutions come first."""
  box = _Box([root], 0)
  pending = [(root, box)]
  while pending:
    node, parent = pending.pop()
    folded: dict[str, list[tree_lib.Node]] = {}
    for child in children.get(node.id, ()):
      if child.status in _FOLDED and child.id not in good:
        folded.setdefault(child.status, []).append(child)
        continue
      below = _Box([child], child.depth)
      parent.below.append(below)
      pending.append((child, below))
    parent.below.sort(key=lambda b: b.nodes[0].id not in good)
    parent.below += [_Box(nodes, nodes[0].depth) for nodes in folded.values()]
  return box


def _assign_rows(root):
  """Sets the rows of boxes; returns the numbers of rows and hidden boxes."""
  rows = hidden = 0
  # Pairs of a box and whether its children are placed.
  stack = [(root, False)]
  while stack:
    box, placed = stack.pop()
    if placed:
      box.below = [b for b in box.below if b.row >= 0]
      if box.below:
        box.row = (box.below[0].row + box.below[-1].row) / 2
        continue
    elif box.below:
      stack.append((box, True))
      stack += [(b, False) for b in reversed(box.below)]
      continue
    if rows == MAX_ROWS:
      box.row = -1.0
      hidden += 1
      continue
    box.row = rows
    rows += 1
  return rows, hidden


def _heading(tree, title, hidden):
  spent = tree.spent
  cost = (
    f'nodes {len(tree.nodes):,}, solutions {len(tree.solutions)}, '
    f'calls {spent.calls:,}, tokens {spent.tokens:,}'
  )
  if tree.stopped:
    cost += f'; stopped by the budget of {tree.stopped}'
  if hidden:
    cost += f'; {hidden} boxes more are not drawn'
  faults = ', '.join(f'{n} {kind}' for kind, n in sorted(tree.faults.items()))
  yield (
    f'<text x="14" y="26" font-size="17" font-weight="bold">'
    f'{_escape(title)}</text>'
  )
  yield f'<text x="14" y="46" fill="#444">{_escape(cost)}</text>'
  if faults:
    yield f'<text x="14" y="64" fill="#b3382c">faults: {faults}</text>'
  x = 14
  for status in dict.fromkeys(node.status for node in tree.nodes):
    fill, edge = _COLORS[status]
    yield (
      f'<rect x="{x}" y="74" width="12" height="12" fill="{fill}" '
      f'stroke="{edge}"/><text x="{x + 17}" y="84" fill="#444">{status}</text>'
    )
    x += 34 + 7 * len(status)


def _traverse(root):
  stack = [root]
  while stack:
    box = stack.pop()
    yield box
    stack += box.below[::-1]


def _center_y(box):
  return _TOP + box.row * _ROW + _ROW / 2


def _edges(root, good):
  for box in _traverse(root):
    for below in box.below:
      on_path = below.nodes[0].id in good
      color, width = ('#1d7a35', 2.5) if on_path else ('#c3c7ce', 1)
      x, y = 10 + box.column * _COLUMN + _BOX, _center_y(box)
      to_x, to_y = 10 + below.column * _COLUMN, _center_y(below)
      bend = (x + to_x) / 2
      yield (
        f'<path d="M{x} {y} C{bend} {y} {bend} {to_y} {to_x} {to_y}" '
        f'fill="none" stroke="{color}" stroke-width="{width}"/>'
      )


def _draw_boxes(root, question):
  for box in _traverse(root):
    first = box.nodes[0]
    fill, edge = _COLORS[first.status]
    x, y = 10 + box.column * _COLUMN, _center_y(box) - 10
    text, full = _labels(box, question)
    dashed = ' stroke-dasharray="4 2"' if len(box.nodes) > 1 else ''
    value = '' if first.value is None or not first.depth else _number(first)
    yield (
      f'<g><title>{_escape(full)}</title>'
      f'<rect x="{x}" y="{y}" width="{_BOX}" height="20" rx="4" '
      f'fill="{fill}" stroke="{edge}"{dashed}/>'
      f'<text x="{x + 7}" y="{y + 14}">{_escape(text)}</text>'
      f'<text x="{x + _BOX - 6}" y="{y + 14}" text-anchor="end" '
      f'fill="{edge}" font-size="11">'
      f'{value if len(box.nodes) == 1 else first.status}</text></g>'
    )


def _number(node):
  times = f'{node.count} x, ' if node.count > 1 else ''
  return f'{times}{node.value:.2g}'


def _labels(box, question):
  """Returns the text of a box and its tooltip."""
  if len(box.nodes) > 1:
    text = f'{len(box.nodes)} thoughts: {box.nodes[0].thought}, ...'
    full = '\n'.join(_full(n) for n in box.nodes)
  else:
    (node,) = box.nodes
    text = node.thought if node.depth else question
    full = _full(node)
  text = ' '.join(text.split())
  # Folded boxes show their status in place of a value.
  letters = _LETTERS - (8 if len(box.nodes) > 1 else 0)
  return (text if len(text) <= letters else text[: letters - 1] + '…'), full


def _full(node):
  fault = f' ({tree_problem.FAULTS[node.fault]})' if node.fault else ''
  value = '' if node.value is None else f', value {node.value:.4g}'
  return f'{node.id} {node.thought}: {node.status}{fault}{value}'
