"""Arithmetic in text as tokens: numbers, signs, words, and all else."""

from collections.abc import Sequence
import fractions
import functools
import re
from typing import NamedTuple

from kd.reasoning.arithmetic import notation

# Digits of one number; more are no number that a solution needs.
MOST_DIGITS = 40

NUMBER, BAD, CLOCK = 'number', 'bad', 'clock'
OPERATOR, OPEN, CLOSE, PERCENT = 'operator', 'open', 'close', 'percent'
WORD, EQUALS, BREAK = 'word', 'equals', 'break'
# What an operand begins with, except signs.
OPERANDS = (NUMBER, BAD, CLOCK, OPEN)


class Token(NamedTuple):
  """A piece of text.

  Attributes:
    kind: one of the constants above. BAD has digits and is no number ('1,23'),
      CLOCK has colons ('12:30'), BREAK is what no expression goes across.
    text: as it stands; of an operator one of + - * / ^.
    begin: where it begins in the text.
    end: where it ends.
    value: a number's value.
    unit: what a number's last shown digit counts (1/100 in '3.50'); None for
      mixed numbers ('3 1/2').
    scale: 1000000 of '5 million', which is 5000000; 1 without such a word.
  """

  kind: str
  text: str
  begin: int
  end: int
  value: fractions.Fraction | None = None
  unit: fractions.Fraction | None = None
  scale: int = 1


_SPACES = r'[\s$\u20ac\u00a3\u00a5]*'
_GLUE = notation.UNSURE + notation.BROKEN
_PIECE = re.compile(
  rf"""
    (?P<digits>\.?[0-9](?:[0-9.,:{_GLUE}]*[0-9])?)
  | (?P<times>[xX](?={_SPACES}(?:\.?[0-9]|\()))
  | (?P<word>[^\W\d_])  # Its first letter; see _WORD.
  | (?P<operator>\*\*|[-+*/^])
  | (?P<open>[(\[])
  | (?P<close>[)\]])
  | (?P<percent>%)
  | (?P<equals>=+)
  | (?P<skipped>[\s$\u20ac\u00a3\u00a5\u00a2]+)
  | (?P<other>.)
  """,
  re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"[^\W\d_](?:[^\W_]|['\u2019-](?=[^\W\d_]))*(?:\^[0-9])?")
_NUMBER = re.compile(
  r'(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)?(?:\.([0-9]+))?'
)
# The rest of a fraction behind its first number.
_BELOW = re.compile(r'/([0-9]{1,6})(?![0-9]*[.,:/]?[0-9])')
_MIXED = re.compile(
  r'(?: and)? ([0-9]{1,6})/([0-9]{1,6})(?![0-9]*[.,:/]?[0-9])'
)
_KINDS = {
  'open': OPEN,
  'close': CLOSE,
  'percent': PERCENT,
  'equals': EQUALS,
  'other': BREAK,
}
_SCALES = {
  'thousand': 10**3,
  'million': 10**6,
  'billion': 10**9,
  'trillion': 10**12,
}
_OPERATOR_WORDS = {'times': '*', 'plus': '+', 'minus': '-'}
_BEFORE_BY = {'divided': '/', 'multiplied': '*'}
# Words that join sentences: never the unit of a number before them.
_NEVER_UNITS = frozenset(
  (
    *('because', 'since', 'if', 'so', 'but', 'then', 'thus', 'hence', 'while'),
    *('therefore', 'which', 'who', 'where', 'when', 'means', 'is', 'are'),
    *('was', 'were', 'has', 'have', 'had', 'and', 'or', 'we', 'she', 'he'),
  )
)
# What a word must be followed by to be an operator.
_FACTOR = re.compile(rf'{_SPACES}(?:\.?[0-9]|\()')
_ONE = fractions.Fraction(1)


def read(text: str) -> list[Token]:
  """Returns the tokens of a text from notation.plain, in linear time."""
  found: list[Token] = []
  at = 0
  while at < len(text):
    match = _PIECE.match(text, at)
    at = match.end()
    kind = match.lastgroup
    if kind == 'digits':
      at = _read_number(text, match, found)
    elif kind == 'times' and _is_behind_operand(found):
      found.append(Token(OPERATOR, '*', match.start(), at))
    elif kind in ('word', 'times'):
      at = _read_word(text, _WORD.match(text, match.start()), found)
    elif kind == 'operator':
      found.append(_operator(text, match, found))
    elif kind != 'skipped':
      found.append(Token(_KINDS[kind], match.group(), match.start(), at))
  return found


def number(text: str) -> tuple[fractions.Fraction, fractions.Fraction] | None:
  """Returns value and last digit's unit of a decimal number; None for others.

  Args:
    text: 1234, 1,234 or 1234.5, of MOST_DIGITS characters at most.
  """
  if len(text) > MOST_DIGITS or not (match := _NUMBER.fullmatch(text)):
    return None
  decimals = len(match[1] or '')
  digits = int(text.replace(',', '').replace('.', ''))
  if not decimals:
    return fractions.Fraction(digits), _ONE
  return fractions.Fraction(digits, 10**decimals), _unit(decimals)


@functools.cache
def _unit(decimals: int) -> fractions.Fraction:
  return fractions.Fraction(1, 10**decimals)


def _read_number(text, match, found):
  """Adds a number, a mixed one with its fraction; returns its end."""
  begin, end = match.span()
  read_as = number(match.group())
  if read_as is None:
    kind = CLOCK if ':' in match.group() else BAD
    found.append(Token(kind, match.group(), begin, end))
    return end
  value, unit = read_as
  whole = value.denominator == 1
  mixed = _MIXED.match(text, end) if whole else None
  below = _BELOW.match(text, end) if whole else None
  if mixed and 0 < int(mixed[1]) < int(mixed[2]):
    end = mixed.end()
    value, unit = value + fractions.Fraction(int(mixed[1]), int(mixed[2])), None
  elif below and int(below[1]) and _is_apart(found, begin):
    end = below.end()
    value, unit = value / int(below[1]), None
  found.append(Token(NUMBER, text[begin:end], begin, end, value, unit))
  return end


def _is_apart(found: Sequence[Token], begin: int) -> bool:
  """Returns whether a division and a blank stand before: 25 / 1/3 is 75."""
  return bool(found) and found[-1].text == '/' and found[-1].end < begin


def _is_behind_operand(found: Sequence[Token]) -> bool:
  kinds = NUMBER, BAD, CLOSE, PERCENT, WORD
  return bool(found) and found[-1].kind in kinds


def _read_word(text, match, found):
  """Adds a word, or the sign that it stands for; returns its end."""
  begin, end, word = match.start(), match.end(), match.group()
  lower = word.lower()
  last = found[-1] if found else None
  if lower in _SCALES and last and last.kind == NUMBER:
    scale = _SCALES[lower]
    unit = last.unit and last.unit * scale
    found[-1] = last._replace(
      end=end, value=last.value * scale, unit=unit, scale=scale
    )
    return end
  if lower == 'by' and last and last.text.lower() in _BEFORE_BY:
    sign = _BEFORE_BY[last.text.lower()]
    found[-1] = Token(OPERATOR, sign, last.begin, end)
  elif lower in _OPERATOR_WORDS and _FACTOR.match(text, end):
    found.append(Token(OPERATOR, _OPERATOR_WORDS[lower], begin, end))
  elif lower == 'of' and _is_share(found) and _FACTOR.match(text, end):
    found.append(Token(OPERATOR, '*', begin, end))
  elif lower == 'equals':
    found.append(Token(EQUALS, word, begin, end))
  elif lower in _NEVER_UNITS:
    found.append(Token(BREAK, word, begin, end))
  else:
    found.append(Token(WORD, word, begin, end))
  return end


def _is_share(found: Sequence[Token]) -> bool:
  """Returns whether what was read ends in a percentage or a fraction."""
  if found and found[-1].kind in (PERCENT, CLOSE):
    return True
  return (
    len(found) > 1
    and found[-1].kind == NUMBER
    and (found[-1].unit is None or found[-2].text == '/')
  )


def _operator(text, match, found):
  begin, end = match.start(), match.end()
  glued = bool(found) and found[-1].end == begin
  # Part of a unit: 'miles/hour', '3-page'.
  if match.group() in '/-' and glued and text[end : end + 1].isalpha():
    return Token(WORD, match.group(), begin, end)
  sign = '^' if match.group() == '**' else match.group()
  return Token(OPERATOR, sign, begin, end)
