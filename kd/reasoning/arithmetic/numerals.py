r"""Reads the numbers of a text, each as a whole or not at all.

A word with a digit is one number or none: '12:30', '1,23' and '10-3' have no
value. A number that is part of something else has no value either: arithmetic
('9 * 9', '2^10', '2(3)'), an unknown command ('\sqrt{16}'), a quantity in two
units ('2 hours 30 minutes') or alternatives ('5 or 6'). Values are exact
fractions, nothing is evaluated, and the time is linear in the length of the
text.
"""

import fractions
import re
from typing import NamedTuple
import unicodedata

from kd.reasoning.arithmetic import notation
from kd.reasoning.arithmetic import number_context
from kd.reasoning.arithmetic import number_words

# Emphasis in Markdown: **5**, *5*.
_EMPHASIS = re.compile(
  r'(?<![\w)*])(\*{1,3})(?![\s*])([^*\n]*)(?<!\s)\1(?![\w(*])'
)
_MIXED = re.compile(
  r'(?<![0-9.,:/])([0-9]{1,9}|[0-9]{1,3}(?:,[0-9]{3}){1,3})( and)? '
  r'([0-9]{1,9})/([0-9]{1,9})(?![0-9]|[.,:/][0-9])'
)
_SIGNED_FRACTION = re.compile(r'-\(([0-9]+/[0-9]+)\)')
_DASH = re.compile('[\u2014\u2015](?=[0-9])')
_TIE = re.compile('(?<=[0-9])~(?=[0-9])')
_FULL_STOP = re.compile('\u3002(?![0-9])')
# Other punctuation that may be next to a number, much of it East Asian.
_PUNCTUATION = str.maketrans(
  dict.fromkeys(
    '\u2014\u2015\u2026\u3001\uff0c\uff0e\uff1b\uff1a\uff01\uff1f\u3008\u3009'
    '\u300a\u300b\u300c\u300d\u300e\u300f\u3010\u3011\u00ab\u00bb',
    ' ',
  )
)
_OTHER_LETTER = re.compile(r'[^\W\d_\x00-\x7f]')


class Number(NamedTuple):
  """A number in a text.

  Attributes:
    value: the value; None if it is uncertain.
    text: the word in the text.
    computed: whether it has no value because it is part of arithmetic.
  """

  value: fractions.Fraction | None
  text: str
  computed: bool


class Numerals:
  """The numbers of a text, in order; parsed on demand."""

  def __init__(self, text: str):
    self._tokens = number_context.tokens(_tidy(text))
    words = [i for i, t in enumerate(self._tokens) if t.kind == 'word']
    self._at = [
      i for i in words if number_words.is_number(self._tokens[i].text)
    ]
    # The first word of the text.
    self._first = words[0] if words else None

  def __len__(self) -> int:
    return len(self._at)

  @property
  def begins_with_number(self) -> bool:
    return bool(self._at) and self._first == self._at[0]

  @property
  def begins_with_sign(self) -> bool:
    first = self._first
    return first is not None and self._tokens[first].text in ('-', '+')

  def read(self, index: int, alone: bool) -> Number:
    """Reads a number.

    Args:
      index: index of the number; negative indices count from the end.
      alone: whether the text is expected to state one number, not to be prose;
        then more kinds of context make the number uncertain.
    """
    at = self._at[index]
    sure = alone and len(self._at) == 1
    word = number_words.read(self._tokens[at].text, sure)
    if word.value is None:
      return Number(None, word.text, word.computed)
    context = number_context.Context(self._tokens, at, alone)
    part_of = context.is_part_of()
    if part_of:
      return Number(None, word.text, part_of == number_context.COMPUTED)
    value = -word.value if context.is_negative else word.value
    return Number(value, word.text, False)

  def is_equated(self, index: int) -> bool:
    """Returns whether '=' follows a number and its units."""
    context = number_context.Context(self._tokens, self._at[index], True)
    return context.is_equated


def _tidy(text: str) -> str:
  """Normalizes text, joins mixed numbers and removes emphasis."""
  text = notation.normalize(text.replace('\r\n', '\n').replace('\r', '\n'))
  text = _SIGNED_FRACTION.sub(r'-\1', text)
  text = _TIE.sub(notation.BROKEN, _MIXED.sub(_join, text))
  if not text.isascii():
    text = _DASH.sub('-', _OTHER_LETTER.sub(_letter, text))
    text = _FULL_STOP.sub(' ', text).translate(_PUNCTUATION)
  return _EMPHASIS.sub(r'\2', text)


def _letter(match: re.Match) -> str:
  """Keeps letters; replaces numerals such as a circled 1."""
  is_letter = unicodedata.category(match.group())[0] != 'N'
  return match.group() if is_letter else notation.BROKEN


def _join(match: re.Match) -> str:
  """Joins a mixed number; an improper one is not a number."""
  whole, word, above, below = match.groups()
  if int(above) < int(below):
    return f'{whole}{notation.JOINT}{above}/{below}'
  if word:
    return match.group()
  return f'{whole}{notation.BROKEN}{above}/{below}'
