"""LaTeX and Unicode mathematics as plain text, for answers and steps alike."""

import re
import unicodedata

_CHARACTERS = str.maketrans(
  {
    **dict.fromkeys('\u2212\u2013\uff0d\ufe63', '-'),
    **dict.fromkeys('\u00d7\u00b7\u22c5\u2217\u2715\u2716', '*'),
    **dict.fromkeys('\u00f7\u2215\u2044', '/'),
    **dict.fromkeys('\u2248\uff1d', '='),
    **dict.fromkeys('\u00a0\u2007\u2009\u202f', ' '),
    '\u00b2': '^2',
    '\u00b3': '^3',
  }
)
# Three quarters and the like, as one character.
_VULGAR = re.compile('[\u00bc-\u00be\u2150-\u215e]')
_COMMANDS = (
  (re.compile(r'\\(?:times|cdot|ast)(?![a-zA-Z])'), '*'),
  (re.compile(r'\\div(?![a-zA-Z])'), '/'),
  (re.compile(r'\\approx(?![a-zA-Z])'), '='),
  (re.compile(r'\^\{?\\circ\}?'), ' '),
  (
    re.compile(r'\\(?:text|mathrm|mbox|textbf|mathbf|textit)\{([^{}]*)\}'),
    r' \1 ',
  ),
  (re.compile(r'\\(?:left|right|quad|[()\[\],;: ])'), ' '),
  (re.compile(r'\\!'), ''),
  (re.compile(r'\{,\}'), ','),
  (re.compile(r'\\([$%#])'), r'\1'),
  (re.compile(r'\^\{([^{}]*)\}'), r'^(\1)'),
)
_FRACTION = re.compile(
  r'(?P<whole>[0-9] ?)?'
  r'\\[dt]?frac(?:\{(?P<top>[^{}]*)\}\{(?P<below>[^{}]*)\}'
  r'|(?P<digit>[0-9])(?P<below_digit>[0-9]))'
)
_DIGITS = re.compile('[0-9]+')
_DEEPEST = 8  # Fractions within fractions.


def plain(text: str) -> str:
  r"""The text with one sign for each operation, as a calculator has it.

  Minus signs, multiplication and division signs, fractions (\frac and one-
  character ones), braces that only group and LaTeX's spaces are written in
  ASCII; everything else stays as it is. Time is linear in the text's length.
  """
  text = _VULGAR.sub(_spell, text).translate(_CHARACTERS)
  if '\\' not in text and '{' not in text:
    return text
  for pattern, written in _COMMANDS:
    text = pattern.sub(written, text)
  for _ in range(_DEEPEST):
    text, count = _FRACTION.subn(_fraction, text)
    if not count:
      break
  return text


def _spell(match: re.Match) -> str:
  return ' ' + unicodedata.normalize('NFKC', match.group())


def _fraction(match: re.Match) -> str:
  top = match['top'] if match['digit'] is None else match['digit']
  below = match['below'] if match['digit'] is None else match['below_digit']
  whole = match['whole']
  simple = _DIGITS.fullmatch(top) and _DIGITS.fullmatch(below)
  if whole is None:
    # In parentheses, for what may stand before it: 4/\frac{1}{2}.
    return f'({top}/{below})' if simple else f'(({top})/({below}))'
  if simple:
    return f'{whole.strip()} {top}/{below}'
  return f'{whole}(({top})/({below}))'
