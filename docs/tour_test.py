"""Every file that docs/tour.md links to has the names that the page gives."""

import ast
import pathlib
import re

_PAGE = pathlib.Path('docs/tour.md')
# Commands and fields that the page quotes.
_QUOTED = re.compile(r'^(--|python |teacher\.|report\.md)')


def _names(path):
  """Returns all functions and classes of a file, methods among them."""
  kinds = ast.FunctionDef | ast.ClassDef
  tree = ast.parse(path.read_text())
  return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_paths_and_names_on_the_page_exist():
  text = _PAGE.read_text()
  assert 60 <= len(text.splitlines()) <= 100
  items = re.split(r'^\d+\. ', text, flags=re.M)[1:]
  assert len(items) == 16
  for item in items:
    links = re.findall(r'\]\(([^)]+)\)', item)
    files = [(_PAGE.parent / link).resolve() for link in links]
    for link, path in zip(links, files, strict=True):
      assert path.is_file(), link
    known = set()
    for path in files:
      if path.suffix == '.py':
        known |= _names(path)
    for name in re.findall(r'`(.+?)`', item, re.S):
      if not _QUOTED.match(name):
        assert name in known, (name, links)
