"""Legal values of fields that name a file, a folder or a source of weights."""

import ast
from collections.abc import Mapping
import dataclasses
import re

from kd.config import legal
from kd.core import errors
from kd.core import objects

_LONGEST_NAME = 255  # bytes, of a file or folder
_LONGEST_PATH = 4000


@dataclasses.dataclass(frozen=True)
class Path(legal.Text):
  """A file or folder, local or in a bucket; may be '' if `optional`.

  Attributes:
    what: description of the path.
    optional: whether '' is legal.
    local_because: the reason why the path must not be in a bucket, if it must
      not.
  """

  what: str
  optional: bool = False
  local_because: str = ''

  @property
  def text(self) -> str:
    empty = "'' or " if self.optional else ''
    if self.local_because:
      return f'{empty}a {self.what} of this machine: {self.local_because}'
    return f'{empty}a {self.what}, gs:// and s3:// too'

  def _fault(self, value):
    if not value:
      return '' if self.optional else "found ''"
    return path_fault(value) if self.local_because else place_fault(value)


def path_fault(value: str) -> str:
  """Returns why a text cannot be a local path, or ''."""
  if '://' in value or re.match(r'(gs|s3|az|abfs|hdfs):/', value):
    return f'found {legal.shown(value)}, which is not a local path'
  if '\0' in value:
    return f'found {legal.shown(value)}, which contains a null character'
  longest = max(len(name.encode()) for name in value.split('/'))
  if longest > _LONGEST_NAME or len(value.encode()) > _LONGEST_PATH:
    return f'found {legal.shown(value)}, which is too long for a path'
  return ''


WORKDIR = (
  'a folder, or one in a bucket: gs://BUCKET/FOLDER or s3://BUCKET/FOLDER'
)
# Excludes glob's special characters, since Orbax searches files with globs.
_BUCKET = re.compile(r'(gs|s3)://[a-z0-9][a-z0-9._-]{2,}(/[\w.=+,@ -]+)+/?')


def place_fault(value: str) -> str:
  """Returns why a text cannot be a local path or one in a bucket, or ''."""
  if not objects.is_url(value):
    return path_fault(value)
  if not _BUCKET.fullmatch(value):
    return (
      f'found {legal.shown(value)}; the name of the bucket is followed by the '
      'path of a folder or file, of letters, digits and . = + , @ _ -'
    )
  return ''


@dataclasses.dataclass(frozen=True)
class Source(legal.Text):
  """One of a few words, or KIND:PLACE, where PLACE may be in a bucket.

  Attributes:
    words: legal values without a kind.
    kinds: description of PLACE by kind.
  """

  words: tuple[str, ...]
  kinds: Mapping[str, str]

  @property
  def names(self) -> tuple[str, ...]:
    return (*self.words, *self.kinds)

  def nearest(self, value):
    kind = str(value).partition(':')[0]
    return errors.nearest(kind, filter(None, self.names))

  @property
  def text(self) -> str:
    words = [word or "''" for word in self.words]
    return ', '.join((*words, *(f'{k}:{w}' for k, w in self.kinds.items())))

  def _fault(self, value):
    if value in self.words:
      return ''
    kind, colon, place = value.partition(':')
    if kind not in self.kinds or not colon or not place:
      return f'found {legal.shown(value)}'
    return place_fault(place)


class Mixture(legal.Legal):
  """A source of data, or several with rates."""

  text = "text, or a tuple of text and (text, rate): ('a.jsonl', ('b', 2.0))"
  kind = 'a source of data'

  def fault(self, value):
    if isinstance(value, tuple | list):
      if not value:
        return 'found no source'
      for fault in map(self._entry_fault, value):
        if fault:
          return f'{fault} in {legal.shown(tuple(value))}'
      return ''
    return legal.TEXT.fault(value)

  def _entry_fault(self, entry):
    if isinstance(entry, tuple | list):
      if len(entry) != 2:
        return f'found {legal.shown(entry)}'
      source, rate = entry
      return legal.TEXT.fault(source) or _RATE.fault(rate)
    return legal.TEXT.fault(entry)

  def normal(self, value):
    if isinstance(value, str):
      return value
    return tuple(
      entry if isinstance(entry, str) else (entry[0], float(entry[1]))
      for entry in value
    )

  def parse(self, text):
    if not re.match(r'\s*[\[(]', text):
      return text
    try:
      return ast.literal_eval(text)
    except (SyntaxError, MemoryError, RecursionError, TypeError) as e:
      raise ValueError from e


_RATE = legal.Number(at_least=0, at_most=1e9)
