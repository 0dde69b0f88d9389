"""Registers a task of prose that ships with Python: its language reference.

The package `pydoc_data` of the standard library has 79 pages in 460 kB. Pages
are held out by a hash of their names. A page is split at blank lines into texts
of up to 800 characters.
"""

from collections.abc import Iterator
import hashlib
from pydoc_data import topics

from kd.input_pipeline import text_tasks

_LONGEST = 800  # Maximum number of characters in a text.
_ONE_OF = 8  # One in this many pages is held out, on average.

DATA_FILES = {'reference_prose': (topics.__file__,)}


def _is_held_out(page: str) -> bool:
  return hashlib.sha256(page.encode()).digest()[0] % _ONE_OF == 0


def _cut(text: str) -> Iterator[str]:
  """Yields texts of whole paragraphs, at least one, up to _LONGEST long."""
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
