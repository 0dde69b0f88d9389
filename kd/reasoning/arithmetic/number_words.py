"""Parses a word as a number: sign, currency, thousands, fraction, unit."""

import fractions
import re
from typing import NamedTuple

from kd.reasoning.arithmetic import notation

MAX_DIGITS = 40
# Words for powers of ten. Whether '5 million' means 5 or 5,000,000 depends on
# the question ("how many millions"), so neither is returned.
SCALES = frozenset(
  (
    *('hundred', 'thousand', 'million', 'billion', 'trillion', 'lakh', 'crore'),
    *('hundreds', 'thousands', 'millions', 'billions', 'trillions'),
    *('bn', 'mn', 'mln', 'mio'),
  )
)
_EAST_ASIAN_SCALES = tuple('\u5341\u767e\u5343\u4e07\u842c\u4ebf\u5104')
# Letters that are units; others are variables ('5x') or powers of ten ('5k',
# '$3m').
UNIT_LETTERS = frozenset('mglLhsctdpCFNVWJA')
_VARIABLES = re.compile('[xyznab]+')
_UNITS = {
  'hour': ('hour', 'hours', 'hr', 'hrs', 'h'),
  'minute': ('minute', 'minutes', 'min', 'mins'),
  'second': ('second', 'seconds', 'sec', 'secs', 's'),
  'day': ('day', 'days', 'd'),
  'week': ('week', 'weeks'),
  'month': ('month', 'months'),
  'year': ('year', 'years'),
  'foot': ('foot', 'feet', 'ft', "'", '\u2019', '\u2032'),
  'inch': ('inch', 'inches', '"', '\u201d', '\u2033'),
  'mile': ('yard', 'yards', 'mile', 'miles', 'km'),
  'meter': ('meter', 'meters', 'metre', 'metres', 'm'),
  'centimeter': ('centimeters', 'centimetres', 'cm'),
  'pound': ('pound', 'pounds', 'lb', 'lbs', 'kg'),
  'ounce': ('ounce', 'ounces', 'oz', 'g', 'gram', 'grams'),
  'gallon': ('gallon', 'gallons', 'liter', 'liters'),
  'quart': ('quart', 'quarts', 'pint', 'pints', 'ml'),
  'dollar': ('dollar', 'dollars', 'euro', 'euros'),
  'cent': ('cent', 'cents', '\u00a2', 'c', 'p', 'pence'),
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words}
_MONEY = '$\u00a2-\u00a5\u0e3f\u20a0-\u20c0'
_PATTERN = re.compile(
  rf"""
    (?P<sign>[-+]?)
    (?P<money>(?:[A-Z]{{0,3}}[{_MONEY}]{{1,3}})|Rs\.)?
    (?P<sign2>-?)
    (?P<whole>[1-9][0-9]{{0,2}}(?:,[0-9]{{3}})+|[0-9]+)?
    (?P<decimals>\.[0-9]+)?
    (?:{notation.JOINT}(?P<above>[0-9]+))?
    (?:/(?P<below>[0-9]+))?
    [{_MONEY}%\u00b0]*
    (?:[-/]?(?P<unit>[^\W\d_]+(?:-[^\W\d_]+)*(?:/[^\W\d_]+)?)(?:\^[0-9])?)?
    [.,:%{_MONEY}]*
    """,
  re.VERBOSE,
)
_DIGIT = re.compile(r'\d')
# Names ('x2', 'Q3') and units with a power ('m^2', 'm/s^2').
_NAME = re.compile(r'[^\W\d_]+[0-9]|[^\W\d_]+(?:/[^\W\d_]+)?\^[0-9][.,:$]*\Z')
# Groups of digits split from a number, as in '12|000'.
_TORN = re.compile('0[0-9]{2}|00+')
_ARITHMETIC = re.compile(r'[-+/^0-9.,:$%]+')


class Word(NamedTuple):
  """A word with digits.

  Attributes:
    value: the number, or None if it is not exactly one number.
    text: the word without leading punctuation.
    unit: a key of _UNITS; '' for other units and for none.
    computed: whether it has no value because it is arithmetic.
  """

  value: fractions.Fraction | None
  text: str
  unit: str
  computed: bool


def is_number(word: str) -> bool:
  """Returns whether a word has digits and is not a name or a power unit."""
  word = _bare(word)
  return bool(_DIGIT.search(word)) and not _NAME.match(word)


def unit_of(word: str) -> str:
  """Returns the unit of a unit word, or ''."""
  return _UNIT_OF.get(word.rstrip('.,:').lower(), '')


def read(word: str, sure: bool) -> Word:
  """Reads a word with digits.

  Args:
    word: a word of a normalized text.
    sure: whether groups of digits separated by spaces are one number.
  """
  text = _bare(word)
  if sure:
    text = text.replace(notation.UNSURE, ',')
  match = _PATTERN.fullmatch(text)
  value = _value(match) if match else None
  computed = value is None and bool(_ARITHMETIC.fullmatch(text))
  unit = ''
  if match:
    unit = unit_of(match['unit'] or '') or ('dollar' if match['money'] else '')
  return Word(value, notation.display(text), unit, computed)


def _bare(word: str) -> str:
  # Keeps a leading decimal point.
  return word if re.match(r'\.[0-9]', word) else word.lstrip('.,:#')


def _value(match: re.Match) -> fractions.Fraction | None:
  """Returns the number of a matched word, or None."""
  whole, decimals = match['whole'] or '', match['decimals'] or ''
  if not (whole or decimals) or _TORN.fullmatch(whole):
    return None
  if match['sign'] and match['sign2']:
    return None
  if sum(map(str.isdigit, match.group())) > MAX_DIGITS:
    return None
  above, below = match['above'], match['below']
  if below is not None and (decimals or not int(below)):
    return None
  if above is not None and below is None:
    return None
  if not _is_unit(match['unit'] or '', bool(match['money'])):
    return None
  value = fractions.Fraction((whole or '0').replace(',', '') + decimals)
  if above is not None:
    value += fractions.Fraction(int(above), int(below))
  elif below is not None:
    value /= int(below)
  negative = '-' in (match['sign'], match['sign2'])
  return -value if negative else value


def _is_unit(word: str, is_money: bool) -> bool:
  """Returns whether a suffix is a unit that does not change the number."""
  if len(word) == 1 and word < '\u2e80':  # East Asian letters are words.
    return word in UNIT_LETTERS and not is_money
  return not (
    word[:1] in _EAST_ASIAN_SCALES
    or word.lower() in SCALES
    or _VARIABLES.fullmatch(word)
  )
