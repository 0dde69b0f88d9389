"""Exact arithmetic by a parser: nothing is ever run, and no float is made.

What it reads: integers, decimals, fractions and mixed numbers ('3 1/2'),
thousands in groups ('1,234'), percent signs (hundredths), currency signs and
units (both without effect), + - * / and their Unicode and LaTeX forms, 'x'
between two numbers, '1/2 of 30', powers with whole exponents, parentheses.
A product without a sign ('2(3)') behind a division is refused: readers differ.

Length, depth, digits and the size of every result are bounded, so that what a
model writes is read in time linear in its length.
"""

from collections.abc import Callable, Sequence
import dataclasses
import fractions

from kd.reasoning.arithmetic import notation
from kd.reasoning.arithmetic import tokens as tokens_lib

Token = tokens_lib.Token

# What an expression without a value is.
NO_PARSE = 'no_parse'
DIVISION_BY_ZERO = 'division_by_zero'
TOO_LARGE = 'too_large'
SYMBOLIC = 'symbolic'  # Words or letters stand where numbers would.

MOST_TOKENS = 120
DEEPEST = 20  # Parentheses, or powers of powers, within one another.
LARGEST_EXPONENT = 64
MOST_BITS = 1024  # Of a result's numerator, and of its denominator.

# Letters that are units; any other one alone is a variable.
_UNIT_LETTERS = frozenset('mglLhka')


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What an expression comes to.

  Attributes:
    value: exact; None where there is none.
    problem: why there is none; '' otherwise.
    operations: how many of + - * / ^ there are, signs not counted.
    unit: of an expression that is one decimal number, what its last digit
      counts; None of others.
    bare: of an expression that is one decimal number and a percent sign or a
      word such as 'million', value and unit without that; None of others.
    has_marks: whether it holds such a sign or word.
  """

  value: fractions.Fraction | None
  problem: str
  operations: int
  unit: fractions.Fraction | None
  bare: tuple[fractions.Fraction, fractions.Fraction] | None
  has_marks: bool


def evaluate(text: str) -> Evaluation:
  """Returns the value of a text that is one expression, with units or without.

  Never raises: what is no expression has the problem NO_PARSE, and so has the
  empty text.
  """
  tokens = tokens_lib.read(notation.plain(text))
  if len(tokens) > MOST_TOKENS:
    return failed(TOO_LARGE)
  end = extent(tokens, 0)
  if not end or not all(t.kind == tokens_lib.WORD for t in tokens[end:]):
    return failed(NO_PARSE)
  return of_tokens(tokens)


def of_tokens(tokens: Sequence[Token]) -> Evaluation:
  """Returns the value of tokens that are one expression and the units in it."""
  if len(tokens) > MOST_TOKENS:
    return failed(TOO_LARGE)
  if any(_is_symbol(token) for token in tokens):
    return failed(SYMBOLIC)
  tokens = _without_units(tokens)
  parser = _Parser(tokens)
  try:
    value = parser.whole()
  except _Problem as e:
    return failed(e.args[0])
  percents = sum(t.kind == tokens_lib.PERCENT for t in tokens)
  marked = bool(percents) or any(t.scale > 1 for t in tokens)
  if parser.operations:
    return Evaluation(value, '', parser.operations, None, None, marked)
  (number,) = (t for t in tokens if t.kind == tokens_lib.NUMBER)
  if number.unit is None:
    return Evaluation(value, '', 0, None, None, marked)
  factor = fractions.Fraction(number.scale, 100**percents)
  unit = number.unit / 100**percents
  bare = (value / factor, unit / factor) if marked else None
  return Evaluation(value, '', 0, unit, bare, marked)


def failed(problem: str) -> Evaluation:
  """What an expression with a problem comes to."""
  return Evaluation(None, problem, 0, None, None, False)


def _is_symbol(token):
  """Returns whether a token is a variable, or a time of day."""
  if token.kind == tokens_lib.CLOCK:
    return True
  return (
    token.kind == tokens_lib.WORD
    and token.text.partition('^')[0] not in _UNIT_LETTERS
    and len(token.text.partition('^')[0]) == 1
    and token.text[0].isalpha()
  )


def extent(tokens: Sequence[Token], begin: int) -> int:
  """Returns where the longest expression that begins at a token ends.

  Args:
    tokens: of a text.
    begin: the number of its first token.

  Returns:
    The number of the token behind it, `begin` if there is no expression. Units
    within it are part of it, those behind it are not.
  """
  return _scan(tokens, begin)[0]


def last_begin(
  tokens: Sequence[Token], may_begin: Callable[[int], bool]
) -> tuple[int, int] | None:
  """Finds the longest expression with nothing but units behind it.

  A scan that fails says how far its failure reaches: to where it stopped, or
  to the last parenthesis that it opened and did not close. No expression that
  begins before that comes further, so all scans together take linear time.

  Args:
    tokens: of a text.
    may_begin: whether an expression may begin at the token of a number.

  Returns:
    The numbers of its first token and of the token behind its last one; None
    if there is no such expression.
  """
  begin = 0
  while begin < len(tokens):
    behind = begin + 1
    if may_begin(begin):
      end, stopped = _scan(tokens, begin)
      if end > begin and behind_units(tokens, end) == len(tokens):
        return begin, end
      behind = max(behind, stopped)
    begin = behind
  return None


def _scan(tokens, begin):
  """Returns where an expression ends, and before where none reaches further."""
  end = at = begin
  opened: list[int] = []
  wants_operand = True
  while at < len(tokens):
    kind = tokens[at].kind
    if wants_operand:
      if kind == tokens_lib.OPEN:
        opened.append(at)
      elif kind in tokens_lib.OPERANDS:
        wants_operand = False
      elif not _is_sign(tokens[at]):
        break
      at += 1
    elif kind == tokens_lib.PERCENT:
      at += 1
    elif kind == tokens_lib.CLOSE and opened:
      opened.pop()
      at += 1
    elif _follows(tokens, at):
      at, wants_operand = at + 1, True
    elif _is_product(tokens, at):
      opened.append(at)
      at, wants_operand = at + 1, True
    else:
      behind = behind_units(tokens, at)
      closes = (
        opened
        and behind < len(tokens)
        and tokens[behind].kind == tokens_lib.CLOSE
      )
      if behind == at or not (closes or _follows(tokens, behind)):
        break
      at = behind
    if not wants_operand and not opened:
      end = at
  return end, opened[-1] + 1 if opened else at


def _is_sign(token):
  return token.kind == tokens_lib.OPERATOR and token.text in '+-'


def _follows(tokens, at):
  """Returns whether an operator is there, with an operand behind it."""
  if at + 1 >= len(tokens) or tokens[at].kind != tokens_lib.OPERATOR:
    return False
  return _begins_operand(tokens, at + 1)


def _begins_operand(tokens, at):
  kinds = tokens_lib.OPERANDS
  if tokens[at].kind in kinds:
    return True
  return (
    _is_sign(tokens[at])
    and at + 1 < len(tokens)
    and tokens[at + 1].kind in kinds
  )


def _is_product(tokens, at):
  """Returns whether a parenthesis is there that multiplies what it touches."""
  last = tokens[at - 1]
  return (
    tokens[at].kind == tokens_lib.OPEN
    and last.kind in (tokens_lib.NUMBER, tokens_lib.CLOSE)
    and last.end == tokens[at].begin
  )


def behind_units(tokens: Sequence[Token], at: int) -> int:
  """The number of the first token from `at` that is no unit: no word, and no
  parenthesis that holds words alone.
  """
  while at < len(tokens):
    if tokens[at].kind == tokens_lib.WORD:
      at += 1
      continue
    glued = at > 0 and tokens[at - 1].end == tokens[at].begin
    if tokens[at].kind != tokens_lib.OPEN or glued:
      break
    inner = at + 1
    while inner < len(tokens) and tokens[inner].kind == tokens_lib.WORD:
      inner += 1
    if inner in (at + 1, len(tokens)) or tokens[inner].kind != tokens_lib.CLOSE:
      break
    at = inner + 1
  return at


def _without_units(tokens):
  """The tokens without words, and without parentheses that hold words alone."""
  kept, at = [], 0
  while at < len(tokens):
    behind = behind_units(tokens, at)
    if behind > at:
      at = behind
      continue
    kept.append(tokens[at])
    at += 1
  return kept


class _Problem(Exception):
  """Why an expression has no value."""


def _bounded(value):
  large = max(value.numerator.bit_length(), value.denominator.bit_length())
  if large > MOST_BITS:
    raise _Problem(TOO_LARGE)
  return value


class _Parser:
  """Recursive descent: sums of products of signed powers of atoms."""

  def __init__(self, tokens: Sequence[Token]):
    self.operations = 0
    self._tokens, self._at, self._depth = tokens, 0, 0

  def whole(self) -> fractions.Fraction:
    value = self._sum()
    if self._at < len(self._tokens):
      raise _Problem(NO_PARSE)
    return value

  def _next(self, kind, texts='') -> str:
    """Takes the next token if it has a kind and one of the texts."""
    if self._at < len(self._tokens):
      token = self._tokens[self._at]
      if token.kind == kind and (not texts or token.text in texts):
        self._at += 1
        return token.text
    return ''

  def _sum(self):
    value = self._product()
    while sign := self._next(tokens_lib.OPERATOR, '+-'):
      self.operations += 1
      other = self._product()
      value = _bounded(value + other if sign == '+' else value - other)
    return value

  def _product(self):
    value, divided = self._signed(), False
    while True:
      sign = self._next(tokens_lib.OPERATOR, '*/')
      if not sign:
        if not self._is_open():
          return value
        if divided:
          raise _Problem(NO_PARSE)
      self.operations += 1
      other = self._signed()
      if sign == '/':
        divided = True
        if not other:
          raise _Problem(DIVISION_BY_ZERO)
        other = 1 / other
      value = _bounded(value * other)

  def _is_open(self):
    at = self._at
    return at < len(self._tokens) and self._tokens[at].kind == tokens_lib.OPEN

  def _signed(self):
    negative = False
    while sign := self._next(tokens_lib.OPERATOR, '+-'):
      negative ^= sign == '-'
    value = self._power()
    return -value if negative else value

  def _power(self):
    base = self._atom()
    if not self._next(tokens_lib.OPERATOR, '^'):
      return base
    self.operations += 1
    with self._deeper():
      exponent = self._signed()
    if exponent.denominator != 1:
      raise _Problem(NO_PARSE)
    if abs(exponent) > LARGEST_EXPONENT:
      raise _Problem(TOO_LARGE)
    if not base and exponent < 0:
      raise _Problem(DIVISION_BY_ZERO)
    return _bounded(base ** int(exponent))

  def _atom(self):
    if self._next(tokens_lib.OPEN):
      with self._deeper():
        value = self._sum()
      if not self._next(tokens_lib.CLOSE):
        raise _Problem(NO_PARSE)
    elif self._next(tokens_lib.NUMBER):
      value = self._tokens[self._at - 1].value
    else:
      raise _Problem(NO_PARSE)
    while self._next(tokens_lib.PERCENT):
      value = _bounded(value / 100)
    return value

  def _deeper(self):
    return _Deeper(self)


class _Deeper:
  """One level further down while it is entered."""

  def __init__(self, parser):
    self._parser = parser

  def __enter__(self):
    self._parser._depth += 1
    if self._parser._depth > DEEPEST:
      raise _Problem(TOO_LARGE)

  def __exit__(self, *unused):
    self._parser._depth -= 1
