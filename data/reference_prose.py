"""Registers prose that every Python has: its own language reference.

The package `pydoc_data` of the standard library holds 79 pages in 460 kB. Pages
are held out by a hash of their names; a page is cut at its blank lines into
texts of up to 800 characters.
"""

from collections.abc import Iterator
import hashlib
from pydoc_data import topics

from kd.input_pipeline import text_tasks

_LONGEST = 800  # Characters of a text.
_ONE_OF = 8  # Pages, on average, of which one is held out.

DATA_FILES = {'reference_prose': (topics.__file__,)}


def _is_held_out(page: str) -> bool:
  return hashlib.sha256(page.encode()).digest()[0] % _ONE_OF == 0


def _cut(text: str) -> Iterator[str]:
  """Yields whole paragraphs, at least one, up to _LONGEST characters."""
  taken = ''
  for paragraph in text.split('\n\n'):
    if taken and len(taken) + len(paragraph) > _LONGEST:
      yield taken
      taken = ''
    taken += paragraph + '\n\n'
  yield taken


def _read(split: str) -> Iterator[dict[str, str]]:
  for page, text in sorted(topics.topics.items()):
    if _is_held_out(page) == (split == 'validation'):
      for i, part in enumerate(_cut(text)):
        yield {'id': f'{page}-{i}', 'inputs': '', 'targets': part}


text_tasks.add('reference_prose', _read, splits=('train', 'validation'))
