"""Splits arithmetic in prose into tokens: numbers, operators, words."""

from collections.abc import Sequence
import fractions
import functools
import re
from typing import NamedTuple

from kd.reasoning.arithmetic import notation

# Maximum digits of a number; no solution needs more.
MAX_DIGITS = 40

NUMBER, BAD, CLOCK = 'number', 'bad', 'clock'
OPERATOR, OPEN, CLOSE, PERCENT = 'operator', 'open', 'close', 'percent'
WORD, EQUALS, BREAK = 'word', 'equals', 'break'
# Kinds of tokens that start an operand, except signs.
OPERANDS = (NUMBER, BAD, CLOCK, OPEN)


class Token(NamedTuple):
  """A token.

  Attributes:
    kind: one of the constants above. BAD has digits but is not a number
      ('1,23'), CLOCK has colons ('12:30'), BREAK ends an expression.
    text: its text; for an operator, one of + - * / ^.
    begin: start offset in the text.
    end: end offset.
    value: value of a number.
    unit: value of one unit in a number's last digit (1/100 for '3.50'); None
      for mixed numbers ('3 1/2').
    scale: factor of a scale word: 1000000 for '5 million', else 1.
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
# The rest of a fraction after the numerator.
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
# What must follow a word for it to be an operator.
_FACTOR = re.compile(rf'{_SPACES}(?:\.?[0-9]|\()')
_UNIT = fractions.Fraction(1)


def read(text: str) -> list[Token]:
  """Splits a text from notation.normalize into tokens, in linear time."""
  tokens: list[Token] = []
  at = 0
  while at < len(text):
    match = _PIECE.match(text, at)
    at = match.end()
    kind = match.lastgroup
    if kind == 'digits':
      at = _read_number(text, match, tokens)
    elif kind == 'times' and _follows_operand(tokens):
      tokens.append(Token(OPERATOR, '*', match.start(), at))
    elif kind in ('word', 'times'):
      at = _read_word(text, _WORD.match(text, match.start()), tokens)
    elif kind == 'operator':
      tokens.append(_operator(text, match, tokens))
    elif kind != 'skipped':
      tokens.append(Token(_KINDS[kind], match.group(), match.start(), at))
  return tokens


def number(text: str) -> tuple[fractions.Fraction, fractions.Fraction] | None:
  """Returns value and unit of a decimal number, or None; see Token.

  Args:
    text: 1234, 1,234 or 1234.5, with at most MAX_DIGITS characters.
  """
  if len(text) > MAX_DIGITS or not (match := _NUMBER.fullmatch(text)):
    return None
  decimals = len(match[1] or '')
  digits = int(text.replace(',', '').replace('.', ''))
  if not decimals:
    return fractions.Fraction(digits), _UNIT
  return fractions.Fraction(digits, 10**decimals), _unit(decimals)


@functools.cache
def _unit(decimals: int) -> fractions.Fraction:
  return fractions.Fraction(1, 10**decimals)


def _read_number(text, match, tokens):
  """Appends a number or mixed number; returns its end."""
  begin, end = match.span()
  parsed = number(match.group())
  if parsed is None:
    kind = CLOCK if ':' in match.group() else BAD
    tokens.append(Token(kind, match.group(), begin, end))
    return end
  value, unit = parsed
  whole = value.denominator == 1
  mixed = _MIXED.match(text, end) if whole else None
  below = _BELOW.match(text, end) if whole else None
  if mixed and 0 < int(mixed[1]) < int(mixed[2]):
    end = mixed.end()
    value, unit = value + fractions.Fraction(int(mixed[1]), int(mixed[2])), None
  elif below and int(below[1]) and _follows_division(tokens, begin):
    end = below.end()
    value, unit = value / int(below[1]), None
  tokens.append(Token(NUMBER, text[begin:end], begin, end, value, unit))
  return end


def _follows_division(tokens: Sequence[Token], begin: int) -> bool:
  """Returns whether a division and a space come before: 25 / 1/3 is 75."""
  return bool(tokens) and tokens[-1].text == '/' and tokens[-1].end < begin


def _follows_operand(tokens: Sequence[Token]) -> bool:
  kinds = NUMBER, BAD, CLOSE, PERCENT, WORD
  return bool(tokens) and tokens[-1].kind in kinds


def _read_word(text, match, tokens):
  """Appends a word, or the operator that it stands for; returns its end."""
  begin, end, word = match.start(), match.end(), match.group()
  lower = word.lower()
  last = tokens[-1] if tokens else None
  if lower in _SCALES and last and last.kind == NUMBER:
    scale = _SCALES[lower]
    unit = last.unit and last.unit * scale
    tokens[-1] = last._replace(
      end=end, value=last.value * scale, unit=unit, scale=scale
    )
    return end
  if lower == 'by' and last and last.text.lower() in _BEFORE_BY:
    sign = _BEFORE_BY[last.text.lower()]
    tokens[-1] = Token(OPERATOR, sign, last.begin, end)
  elif lower in _OPERATOR_WORDS and _FACTOR.match(text, end):
    tokens.append(Token(OPERATOR, _OPERATOR_WORDS[lower], begin, end))
  elif lower == 'of' and _ends_in_fraction(tokens) and _FACTOR.match(text, end):
    tokens.append(Token(OPERATOR, '*', begin, end))
  elif lower == 'equals':
    tokens.append(Token(EQUALS, word, begin, end))
  elif lower in _NEVER_UNITS:
    tokens.append(Token(BREAK, word, begin, end))
  else:
    tokens.append(Token(WORD, word, begin, end))
  return end


def _ends_in_fraction(tokens: Sequence[Token]) -> bool:
  """Returns whether the tokens end in a percentage or a fraction."""
  if tokens and tokens[-1].kind in (PERCENT, CLOSE):
    return True
  return (
    len(tokens) > 1
    and tokens[-1].kind == NUMBER
    and (tokens[-1].unit is None or tokens[-2].text == '/')
  )


def _operator(text, match, tokens):
  begin, end = match.start(), match.end()
  glued = bool(tokens) and tokens[-1].end == begin
  # Part of a unit: 'miles/hour', '3-page'.
  if match.group() in '/-' and glued and text[end : end + 1].isalpha():
    return Token(WORD, match.group(), begin, end)
  sign = '^' if match.group() == '**' else match.group()
  return Token(OPERATOR, sign, begin, end)
