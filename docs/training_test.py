"""The Python of docs/training.md and docs/vision.md makes legal configs."""

import pathlib
import re

import pytest

from kd.config import base
from kd.config import rules

_BLOCKS = [
  block
  for page in ('docs/training.md', 'docs/vision.md')
  for block in re.findall(
    r'```python\n(.*?)```', pathlib.Path(page).read_text(), re.DOTALL
  )
  if re.search(r'^c\.', block, re.MULTILINE)
]


@pytest.mark.parametrize('block', _BLOCKS, ids=range(len(_BLOCKS)))
def test_each_block_makes_a_valid_config(block):
  c = base.get_config()
  c.update(steps=10_000)
  exec(block, {'c': c, 'base': base})
  rules.check(base.checked(c))


def test_the_page_has_blocks():
  assert len(_BLOCKS) >= 3
