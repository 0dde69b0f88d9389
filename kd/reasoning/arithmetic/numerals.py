r"""Numbers in text, each read as a whole or not at all.

A word that holds a digit is one number or none: '12:30', '1,23' and '10-3' have
no value. Neither has a number that is a part of something: of arithmetic
('9 * 9', '2^10', '2(3)'), of a command that is not known ('\sqrt{16}'), of a
quantity in two units ('2 hours 30 minutes'), of two numbers of which either may
be meant ('5 or 6'). Values are exact fractions, nothing is evaluated, and time
is linear in the text's length.
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
# Other punctuation that may touch a number, much of it East Asian.
_PUNCTUATION = str.maketrans(
  dict.fromkeys(
    '\u2014\u2015\u2026\u3001\uff0c\uff0e\uff1b\uff1a\uff01\uff1f\u3008\u3009'
    '\u300a\u300b\u300c\u300d\u300e\u300f\u3010\u3011\u00ab\u00bb',
    ' ',
  )
)
_OTHER_LETTER = re.compile(r'[^\W\d_\x00-\x7f]')


class Number(NamedTuple):
  """A number as a text mentions it.

  Attributes:
    value: None where no number is surely meant.
    text: the word, as it stands.
    computed: it has no value because it is a part of arithmetic.
  """

  value: fractions.Fraction | None
  text: str
  computed: bool


class Numerals:
  """The numbers of a text, in its order; each is read when it is asked for."""

  def __init__(self, text: str):
    self._tokens = number_context.tokens(_tidy(text))
    words = [i for i, t in enumerate(self._tokens) if t.kind == 'word']
    self._at = [
      i for i in words if number_words.is_number(self._tokens[i].text)
    ]
    # What the text begins with.
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
      index: which one of the text; negative ones count from its end.
      alone: the text is there to name one number, not to tell a story: more of
        what stands next to the number can make it uncertain.
    """
    at = self._at[index]
    sure = alone and len(self._at) == 1
    word = number_words.read(self._tokens[at].text, sure)
    if word.value is None:
      return Number(None, word.text, word.computed)
    context = number_context.Context(self._tokens, at, alone)
    whole = context.is_part_of()
    if whole:
      return Number(None, word.text, whole == number_context.COMPUTED)
    value = -word.value if context.is_negative else word.value
    return Number(value, word.text, False)

  def is_equated(self, index: int) -> bool:
    """Returns whether a number's right neighbor is '=', units between them."""
    context = number_context.Context(self._tokens, self._at[index], True)
    return context.is_equated


def _tidy(text: str) -> str:
  """Returns plain notation, each mixed number one word, without emphasis."""
  text = notation.plain(text.replace('\r\n', '\n').replace('\r', '\n'))
  text = _SIGNED_FRACTION.sub(r'-\1', text)
  text = _TIE.sub(notation.BROKEN, _MIXED.sub(_join, text))
  if not text.isascii():
    text = _DASH.sub('-', _OTHER_LETTER.sub(_letter, text))
    text = _FULL_STOP.sub(' ', text).translate(_PUNCTUATION)
  return _EMPHASIS.sub(r'\2', text)


def _letter(match: re.Match) -> str:
  """Keeps letters; numerals, such as a circled 1, are part of no number."""
  is_letter = unicodedata.category(match.group())[0] != 'N'
  return match.group() if is_letter else notation.BROKEN


def _join(match: re.Match) -> str:
  """Joins a mixed number; one that is improper is no number."""
  whole, word, above, below = match.groups()
  if int(above) < int(below):
    return f'{whole}{notation.JOINT}{above}/{below}'
  if word:
    return match.group()
  return f'{whole}{notation.BROKEN}{above}/{below}'
