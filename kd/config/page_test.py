"""docs/config.md matches the fields."""

import pathlib

from kd.config import page


def test_the_page_is_current():
  assert pathlib.Path('docs/config.md').read_text() == page.page(), (
    'run: python -m kd.config.page > docs/config.md'
  )
