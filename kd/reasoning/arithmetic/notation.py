"""Converts LaTeX and Unicode mathematics to plain text."""

import re
import unicodedata

# Maximum length of a text in characters: 65,536 tokens of four characters, half
# of the longest context of a supported model. The slowest text of this length
# takes about five seconds. Longer texts have neither an answer nor steps.
MAX_CHARS = 2**18

# Join groups of digits that may not be one number, separated by a space
# (UNSURE) or anything else (BROKEN). Readers of numbers treat the result as one
# word, so that a part of it is never read as a number.
UNSURE = '\ue000'
BROKEN = '\ue001'
JOINT = '\ue002'  # Joins a mixed number such as 3 1/2 into one word.
_MARKS = UNSURE + BROKEN + JOINT
_SHOWN = str.maketrans(dict.fromkeys(_MARKS, ' '))

# Spaces that may separate thousands.
_THIN = '\u00a0\u2005-\u200a\u202f'
_CHARACTERS = str.maketrans(
  {
    **dict.fromkeys('\u2010\u2011\u2012\u2212\u2013\uff0d\ufe63', '-'),
    **dict.fromkeys('\u00d7\u00b7\u22c5\u2217\u2715\u2716\uff0a', '*'),
    **dict.fromkeys('\u00f7\u2215\u2044\uff0f', '/'),
    **dict.fromkeys('\u2248\uff1d', '='),
    # These characters have no meaning if the text itself contains them.
    **dict.fromkeys(_MARKS, BROKEN),
    **dict.fromkeys('\u2000\u2001\u2002\u2003\u2004\u205f\u3000', ' '),
    # Zero-width characters.
    **dict.fromkeys('\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff', None),
    **{chr(0xFF00 + ord(c) - 0x20): c for c in '$%()+[]'},
    '\uffe1': '\u00a3',
    '\uffe5': '\u00a5',
  }
)
_SUPERSCRIPT = re.compile(
  '[\u207a\u207b]?[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+'
)
# Fractions as one character, such as three quarters.
_VULGAR = re.compile(
  '[ \u00a0\u2009\u202f]?([\u00bc-\u00be\u2150-\u215e\u2189])'
)
_FOREIGN_DIGIT = re.compile(r'(?![0-9])\d')
# East Asian punctuation within a number.
_WIDE_POINT = re.compile('(?<=[0-9])[\uff0c\uff0e](?=[0-9])')

_SEPARATOR = re.compile(
  rf"[{_THIN}'\u2019\u02bc\u2032_]|\\[,:;]|\{{\\?[,:;]\}}"
)
# Possessive, so that a run of digits is matched once, from its start.
_GROUPS = re.compile(rf'(?<![0-9])[0-9]++(?:(?:{_SEPARATOR.pattern})[0-9]++)++')
_BLANK_GROUPS = re.compile(
  rf'(?<![\w.,:/^{UNSURE}{BROKEN}])(?P<first>[0-9][0-9.,:]*+)'
  r'(?P<rest>(?: [0-9]{3})+)(?![0-9])'
)
_FIRST_GROUP = re.compile('[1-9][0-9]{0,2}')
# Numbers that a following space and three digits may continue.
_BEFORE_BLANK = re.compile(
  r'[0-9]{1,3}(?:,[0-9]{3})*(?:\.[0-9]+)?|[0-9]+\.[0-9]+'
)

_STYLES = (
  'text|textbf|textit|textrm|textsf|texttt|textnormal|emph|underline|mbox|hbox'
  '|mathrm|mathbf|mathit|mathsf|mathtt|boldsymbol|bm'
)
_COMMANDS = (
  (re.compile(r'\\(?:times|cdot|ast)(?![a-zA-Z])'), '*'),
  (re.compile(r'\\div(?![a-zA-Z])'), '/'),
  (re.compile(r'\\approx(?![a-zA-Z])'), '='),
  (re.compile(r'\\pm(?![a-zA-Z])'), '\u00b1'),
  (re.compile(r'\\(?:pounds|euro|yen)(?![a-zA-Z])'), '$'),
  (re.compile(r'\^\{?\\circ\}?'), ' '),
  # A unit and its power are one word: \text{cm}^2, cm$^2$.
  (re.compile(r'\$\^\{?([0-9])\}?\$'), r'^\1'),
  (re.compile(r'\^\{ ?([0-9]) ?\}'), r'^\1'),
  (re.compile(rf'\\(?:{_STYLES})\{{([^{{}}]*)\}}\^'), r' \1^'),
  (re.compile(rf'\\(?:{_STYLES})\{{([^{{}}]*)\}}'), r' \1 '),
  (re.compile(rf'\\(?:{_STYLES}|displaystyle)(?![a-zA-Z])'), ' '),
  (re.compile(r'\\(?:(?:left|right|q?quad)(?![a-zA-Z])|[()\[\],;:])'), ' '),
  (re.compile(r'\{,\}'), ','),
  (re.compile(r'\\([$%#&])'), r'\1'),
  (re.compile(r'\^\{([^{}]*)\}'), r'^(\1)'),
)
_FRACTION = re.compile(
  r'(?P<whole>[0-9] ?)?\\(?:[cdt]?frac|nicefrac|sfrac) ?'
  r'(?:\{(?P<top>[^{}]*)\}|(?P<top_digit>[0-9])) ?'
  r'(?:\{(?P<below>[^{}]*)\}|(?P<below_digit>[0-9]))'
)
_INTEGER = re.compile('-?[0-9]+')
_MAX_DEPTH = 8  # Fractions within fractions.


def normalize(text: str) -> str:
  r"""Returns the text in ASCII notation with one sign for each operation.

  Converts minus, multiplication and division signs, fractions (\frac and
  single characters), digits of all scripts, grouping braces and LaTeX spaces.
  Groups of three digits that are certainly one number ('12\,000', '12_000',
  "12'000", '12 000') are separated by commas. Uncertain groups ('12\,00',
  '12 345') are joined by BROKEN or UNSURE and are not read as a number.
  Everything else is unchanged. Takes time linear in the length of the text.
  """
  if not text.isascii():
    text = _SUPERSCRIPT.sub(_power, _VULGAR.sub(_spell, text))
    text = _FOREIGN_DIGIT.sub(_digit, text).translate(_CHARACTERS)
    text = _WIDE_POINT.sub(_point, text)
  has_latex = '\\' in text or '{' in text
  if has_latex:
    text = text.replace(r'\\', ' ').replace(r'\!', '')
  text = _GROUPS.sub(_grouped, text).replace('\\ ', ' ')
  text = _BLANK_GROUPS.sub(_grouped_by_blanks, text)
  text = re.sub(f'[{_THIN}]', ' ', text)
  if not has_latex:
    return text
  for pattern, written in _COMMANDS:
    text = pattern.sub(written, text)
  for _ in range(_MAX_DEPTH):
    text, count = _FRACTION.subn(_fraction, text)
    if not count:
      break
  return text


def display(text: str) -> str:
  """Returns normalized text for display, with spaces in place of the marks."""
  return text.translate(_SHOWN)


def _spell(match: re.Match) -> str:
  return ' ' + unicodedata.normalize('NFKC', match[1])


def _power(match: re.Match) -> str:
  digits = unicodedata.normalize('NFKC', match.group()).replace('\u2212', '-')
  return f'^{digits}'


def _digit(match: re.Match) -> str:
  return str(int(match.group()))


def _point(match: re.Match) -> str:
  return ',' if match.group() == '\uff0c' else '.'


def _grouped(match: re.Match) -> str:
  """Joins groups of digits by commas if they are certainly one number."""
  groups = _SEPARATOR.split(match.group())
  separators = set(_SEPARATOR.findall(match.group()))
  before = match.string[match.start() - 1] if match.start() else ''
  after = match.string[match.end() : match.end() + 2]
  if after[:1] == '/' and len(groups) == 2:
    if len(groups[1]) != 3:
      return ' '.join(groups)  # A mixed number, such as 3 1/2.
    if groups[1][0] != '0':
      return BROKEN.join(groups)
  is_number = (
    len(separators) == 1
    and '\u2032' not in separators  # Feet, or minutes of arc.
    and _FIRST_GROUP.fullmatch(groups[0])
    and all(len(group) == 3 for group in groups[1:])
    and not (before in ('.', ',', ':', '_') or before.isalnum())
    and not (after[:1] in (',', ':') and after[1:].isdigit())
  )
  return (',' if is_number else BROKEN).join(groups)


def _grouped_by_blanks(match: re.Match) -> str:
  """Joins groups separated by spaces, which may also be two numbers."""
  first, rest = match['first'], match['rest'].split()
  after = match.string[match.end() : match.end() + 2]
  if not _BEFORE_BLANK.fullmatch(first):
    return match.group()
  if after[:1] == '-' and after[1:].isalpha():
    return match.group()  # As in 'packs of 12 200-gram bars'.
  separator = UNSURE
  if any(group[0] == '0' for group in rest):
    separator = ','  # A separate number does not begin with 0.
  if not _FIRST_GROUP.fullmatch(first) or (
    after[:1] in (',', ':') and after[1:].isdigit()
  ):
    separator = BROKEN
  return separator.join([first, *rest])


def _fraction(match: re.Match) -> str:
  top = match['top'] if match['top_digit'] is None else match['top_digit']
  below = match['below_digit']
  below = match['below'] if below is None else below
  whole = match['whole']
  simple = _INTEGER.fullmatch(top) and _INTEGER.fullmatch(below)
  simple = simple and not below.startswith('-')
  if whole is None:
    # In parentheses because of what may come before it: 4/\frac{1}{2}.
    return f'({top}/{below})' if simple else f'(({top})/({below}))'
  if simple and not top.startswith('-'):
    return f'{whole.strip()} {top}/{below}'
  return f'{whole}(({top})/({below}))'
