"""Examines the context of a number: whether it is part of something else."""

from collections.abc import Sequence
import dataclasses
import re
from typing import NamedTuple

from kd.reasoning.arithmetic import number_words

# What a number is part of.
COMPUTED = 'computed'  # Arithmetic: '9 * 9', '2(3)'.
PART = 'part'  # Something else: '\sqrt{16}', '5 or 6', '2 hours 30 minutes'.

_TOKEN = re.compile(
  r"""
    (?P<word>[^\s=()\[\]{}*<>|"'`~\u201c\u201d\u2018\u2019;!?_\\]+)
  | (?P<command>\\[a-zA-Z]+)
  | (?P<stars>\*+)
  | (?P<line>\n)
  | (?P<other>[^ \t])
  """,
  re.VERBOSE,
)
# Commands that are separators; a number next to another one is part of it.
_SEPARATORS = frozenset(
  f'\\{name}'
  for name in (
    *('therefore', 'implies', 'Rightarrow', 'rightarrow', 'to', 'item', 'n'),
    *('newline', 'hline', 'par', 'begin', 'end', 'boxed', 'fbox', 'equiv'),
  )
)
_OPENING = ('(', '[', '{')
_CLOSING = (')', ']', '}')
_QUOTES = ('"', "'", '`', '\u201d', '\u2019')
_OPERATORS = frozenset(('+', '-', '/', 'x', 'X', '^', ':', '\u00b1', '\u221a'))
_ALWAYS = frozenset(('/', '^', '\u00b1', '\u221a'))  # With or without operands.
_OPERATOR_WORDS = frozenset(('plus', 'minus', 'times'))
_HALVES = frozenset(('half', 'quarter', 'third', 'fourth', 'fifth'))


class Token(NamedTuple):
  """A token; kind is word, command, stars, line (end of line) or other."""

  kind: str
  text: str
  begin: int
  end: int


_NO_TOKEN = Token('line', '', -1, -1)


def tokens(text: str) -> list[Token]:
  """Splits a normalized text into tokens, without whitespace."""
  return [
    Token(m.lastgroup, m.group(), m.start(), m.end())
    for m in _TOKEN.finditer(text)
  ]


@dataclasses.dataclass(frozen=True)
class Context:
  """A number and the tokens around it.

  Attributes:
    tokens: the tokens of the text.
    at: index of the token of the number.
    alone: see numerals.Numerals.read.
  """

  tokens: Sequence[Token]
  at: int
  alone: bool

  def is_part_of(self) -> str:
    """Returns COMPUTED, PART, or '' for a separate number."""
    return self._left() or self._right() or self._quantity()

  @property
  def is_negative(self) -> bool:
    """Returns whether a word negates it: 'negative 5', 'is minus 5'."""
    word, before = self._get(self.at - 1).text, self._get(self.at - 2)
    if word.lower() == 'negative':
      return True
    is_sign = before.kind == 'line' or before.text in ('=', 'is', 'was')
    return word.lower() == 'minus' and is_sign

  @property
  def is_equated(self) -> bool:
    """Returns whether '=' follows the number and its units."""
    at = self.at + 1
    while self._get(at).kind == 'word' and not self._is_number(at):
      at += 1
    return self._get(at).text == '='

  def _get(self, at: int) -> Token:
    return self.tokens[at] if 0 <= at < len(self.tokens) else _NO_TOKEN

  def _is_number(self, at: int) -> bool:
    token = self._get(at)
    return token.kind == 'word' and number_words.is_number(token.text)

  def _ends_operand(self, at: int) -> bool:
    """Returns whether an operand ends at a token."""
    token = self._get(at)
    if token.kind == 'word' and not self._is_number(at):
      one_letter = len(token.text) == 1 and token.text.isalpha()
      return one_letter or self._is_number(at - 1)  # A unit: '5 apples * 3'.
    return token.kind in ('word', 'command') or token.text in _CLOSING

  def _begins_operand(self, at: int) -> bool:
    token = self._get(at)
    if token.kind == 'word' and not self._is_number(at):
      one_letter = len(token.text) == 1 and token.text.isalpha()
      return one_letter or (
        token.text in ('+', '-', '$') and self._begins_operand_after(at)
      )
    return token.kind in ('word', 'command') or token.text in _OPENING

  def _begins_operand_after(self, at: int) -> bool:
    return self._is_number(at + 1) or self._get(at + 1).text in _OPENING

  def _left(self) -> str:
    """Checks what comes before the number and the brackets around it."""
    at, inner = self.at - 1, self.tokens[self.at]
    while self._get(at).text in _OPENING:
      inner, outer = self.tokens[at], self._get(at - 1)
      if outer.end == inner.begin and (kind := self._applied(outer)):
        return kind
      at -= 1
    token = self._get(at)
    glued = token.end == inner.begin
    if token.kind == 'stars':
      return COMPUTED if self._ends_operand(at - 1) else ''
    if token.kind == 'command':
      return '' if token.text in _SEPARATORS else PART
    if token.kind == 'word':
      return self._left_word(at)
    if token.text in _CLOSING:
      return COMPUTED if glued else ''
    if token.text == '_' and glued:
      before = self._get(at - 1)
      is_index = before.end == token.begin and before.text[-1:] not in '_*'
      return PART if is_index and before.kind != 'line' else ''
    return PART if glued and self._splits(at) else ''

  def _splits(self, at: int) -> bool:
    """Returns whether a sign splits or encloses it: '12|000', '|-5|'."""
    token, before, after = (self._get(i) for i in (at, at - 1, at + 1))
    if token.kind != 'other' or token.text in '=<>':
      return False
    if token.text == '|' and before.end != token.begin:
      return True
    return (
      (before.end, after.begin) == (token.begin, token.end)
      and self._is_number(at - 1)
      and self._is_number(at + 1)
    )

  def _applied(self, outer: Token) -> str:
    """Returns what a number in brackets is part of, given the token before."""
    if outer.kind == 'command':
      return '' if outer.text in _SEPARATORS else PART
    if outer.kind == 'word':
      last = outer.text[-1]
      if last in '+-/^\u00b1\u221a' or last.isdigit():
        return COMPUTED
      return PART if last.isalpha() else ''
    return COMPUTED if outer.text in _CLOSING or outer.kind == 'stars' else ''

  def _left_word(self, at: int) -> str:
    word = self.tokens[at].text
    lower = word.lower()
    before = self._get(at - 1)
    if word in _OPERATORS:
      if word in _ALWAYS or self._ends_operand(at - 1):
        return COMPUTED
      is_first = before.kind == 'line'
      # A dash, a list mark or a sign; only a sign negates the number.
      unsure = before.text == '=' or (is_first and self.alone)
      return PART if word in '+-' and unsure else ''
    if word[-1] in '+/^\u00b1\u221a' or (word[-1] == '-' and word[0].isdigit()):
      return COMPUTED
    if lower in _OPERATOR_WORDS:
      return '' if self.is_negative else COMPUTED
    if lower == 'by' and before.text.lower() in ('divided', 'multiplied'):
      return COMPUTED
    if lower == 'or':
      return PART if self._ends_operand(at - 1) else ''
    if not self._is_number(at):
      return ''
    if self.tokens[self.at].text[0] in '+-/':
      return COMPUTED
    return PART if self.alone else ''

  def _right(self) -> str:
    """Checks what comes after the number and the brackets around it."""
    at, end = self.at + 1, self.tokens[self.at].end
    while self._get(at).text in (*_CLOSING, *_QUOTES):
      end, at = self.tokens[at].end, at + 1
    token = self._get(at)
    glued = token.begin == end
    if token.text in _OPENING and glued:
      return COMPUTED if self._begins_operand(at + 1) else ''
    if token.kind == 'stars':
      return COMPUTED if self._begins_operand(at + 1) else ''
    if token.kind == 'command':
      return '' if token.text in _SEPARATORS else PART
    if token.kind == 'word':
      return self._right_word(at)
    if token.text == '_' and glued:
      index = self._get(at + 1)
      is_index = index.kind == 'word' or index.text in _OPENING
      return PART if is_index and index.begin == token.end else ''
    return PART if glued and self._splits(at) else ''

  def _right_word(self, at: int) -> str:
    word = self.tokens[at].text
    lower = word.rstrip('.,:').lower()
    is_next = self._is_number(at + 1)
    if word[0] in '^\u221a' or (
      word in _OPERATORS and self._begins_operand(at + 1)
    ):
      return COMPUTED
    if self._is_number(at):
      if word[0] in '+-/':
        return COMPUTED
      return PART if self.alone else ''
    if lower in number_words.SCALES:
      return PART
    if lower in _OPERATOR_WORDS and is_next:
      return COMPUTED
    if lower in ('divided', 'multiplied') and self._get(at + 1).text == 'by':
      return COMPUTED
    if lower == 'or' and is_next:
      return PART
    if lower == 'and' and self._get(at + 1).text in ('a', 'one'):
      return PART if self._get(at + 2).text.rstrip('.,') in _HALVES else ''
    if not self.alone:
      return ''
    if lower in ('to', 'and') and is_next:
      return PART
    is_variable = len(lower) == 1 and lower.isascii() and lower.isalpha()
    is_unit = lower in number_words.UNIT_LETTERS or word in ('a', 'A', 'I')
    return PART if is_variable and not is_unit else ''

  def _quantity(self) -> str:
    """Checks for a quantity in two units: 5 feet 10 inches, $5 and 30 cents."""
    unit, after = self._unit(self.at)
    if unit and self._is_second(after, unit):
      return PART
    # The previous number: at most two units and a comma or 'and' before.
    for at in range(self.at - 1, max(self.at - 5, -1), -1):
      if self._is_number(at):
        unit, after = self._unit(at)
        return PART if unit and self._is_second(after, unit) else ''
    return ''

  def _unit(self, at: int) -> tuple[str, int]:
    """Returns the unit of a number, and the index of the token after it."""
    text = self.tokens[at].text
    unit = number_words.read(text, False).unit
    if unit or text[-1] in '.:':
      return unit, at + 1
    return number_words.unit_of(self._get(at + 1).text), at + 2

  def _is_second(self, at: int, unit: str) -> bool:
    """Returns whether a number in another unit is at a token."""
    if self._get(at).text in ('and', ','):
      at += 1
    return self._is_number(at) and self._unit(at)[0] not in ('', unit)
