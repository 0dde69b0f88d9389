"""Legal values of fields that name a file, a folder or a source of weights."""

from collections.abc import Mapping
import dataclasses
import re

from kd.config import legal
from kd.core import errors

_LONGEST_NAME = 255  # bytes, of a file or folder
_LONGEST_PATH = 4000


@dataclasses.dataclass(frozen=True)
class Path(legal.Text):
  """A file or folder of this machine; '' where `optional` says what it means.

  A bucket has to be mounted as a folder: local programs would create a folder
  called gs: instead.
  """

  what: str
  optional: bool = False

  @property
  def text(self) -> str:
    empty = "'' or " if self.optional else ''
    return f'{empty}a {self.what}; a bucket can be mounted as a folder'

  def _fault(self, value):
    if not value:
      return '' if self.optional else "found ''"
    return path_fault(value)


def path_fault(value: str) -> str:
  """Returns why a text cannot name a local file or folder, or ''."""
  if '://' in value or re.match(r'(gs|s3|az|abfs|hdfs):/', value):
    return f'found {legal.shown(value)}, which is no local path'
  if '\0' in value:
    return f'found {legal.shown(value)}, which holds a null character'
  longest = max(len(name.encode()) for name in value.split('/'))
  if longest > _LONGEST_NAME or len(value.encode()) > _LONGEST_PATH:
    return f'found {legal.shown(value)}, which is too long for a path'
  return ''


@dataclasses.dataclass(frozen=True)
class Source(legal.Text):
  """Words, or KIND:PLACE with a local place.

  Attributes:
    words: what may stand alone.
    kinds: by kind, what PLACE is.
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
    return path_fault(place)
