"""Parses and evaluates arithmetic exactly, without executing anything.

Supports integers, decimals, fractions and mixed numbers ('3 1/2'), thousands in
groups ('1,234'), percent signs (hundredths), currency signs and units (both
without effect), + - * / and their Unicode and LaTeX forms, 'x' between two
numbers, '1/2 of 30', powers with integer exponents, and parentheses. A product
without a sign ('2(3)') after a division is refused because it is ambiguous.

Length, depth, digits and the size of every result are bounded, so that any text
takes time linear in its length.
"""

from collections.abc import Callable, Sequence
import dataclasses
import fractions

from kd.reasoning.arithmetic import notation
from kd.reasoning.arithmetic import tokens as tokens_lib

Token = tokens_lib.Token

# Problems of an expression without a value.
NO_PARSE = 'no_parse'
DIVISION_BY_ZERO = 'division_by_zero'
TOO_LARGE = 'too_large'
SYMBOLIC = 'symbolic'  # Has words or letters in place of numbers.

MAX_TOKENS = 120
MAX_DEPTH = 20  # Maximum nesting of parentheses and powers.
MAX_EXPONENT = 64
MAX_BITS = 1024  # Maximum bits of a result's numerator and denominator.

# Letters that are units; other single letters are variables.
_UNIT_LETTERS = frozenset('mglLhka')


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The result of evaluating an expression.

  Attributes:
    value: exact value; None if there is none.
    problem: why there is no value; '' if there is one.
    operations: number of operators + - * / ^, not counting signs.
    unit: value of one unit in the last digit, if the expression is a single
      decimal number; None otherwise.
    unscaled: value and unit without the percent sign or the word such as
      'million', if the expression is a single decimal number with one; None
      otherwise.
    is_scaled: whether the expression has such a sign or word.
  """

  value: fractions.Fraction | None
  problem: str
  operations: int
  unit: fractions.Fraction | None
  unscaled: tuple[fractions.Fraction, fractions.Fraction] | None
  is_scaled: bool


def evaluate(text: str) -> Evaluation:
  """Evaluates a text that is one expression, with or without units.

  Never raises: a text that is not an expression, such as the empty text, has
  the problem NO_PARSE.
  """
  tokens = tokens_lib.read(notation.normalize(text))
  if len(tokens) > MAX_TOKENS:
    return failure(TOO_LARGE)
  end = end_of_expression(tokens, 0)
  if not end or not all(t.kind == tokens_lib.WORD for t in tokens[end:]):
    return failure(NO_PARSE)
  return evaluate_tokens(tokens)


def evaluate_tokens(tokens: Sequence[Token]) -> Evaluation:
  """Evaluates tokens that are one expression and its units."""
  if len(tokens) > MAX_TOKENS:
    return failure(TOO_LARGE)
  if any(_is_symbol(token) for token in tokens):
    return failure(SYMBOLIC)
  tokens = _without_units(tokens)
  parser = _Parser(tokens)
  try:
    value = parser.whole()
  except _Problem as e:
    return failure(e.args[0])
  percents = sum(t.kind == tokens_lib.PERCENT for t in tokens)
  is_scaled = bool(percents) or any(t.scale > 1 for t in tokens)
  if parser.operations:
    return Evaluation(value, '', parser.operations, None, None, is_scaled)
  (number,) = (t for t in tokens if t.kind == tokens_lib.NUMBER)
  if number.unit is None:
    return Evaluation(value, '', 0, None, None, is_scaled)
  factor = fractions.Fraction(number.scale, 100**percents)
  unit = number.unit / 100**percents
  unscaled = (value / factor, unit / factor) if is_scaled else None
  return Evaluation(value, '', 0, unit, unscaled, is_scaled)


def failure(problem: str) -> Evaluation:
  """Returns the evaluation of an expression with a problem."""
  return Evaluation(None, problem, 0, None, None, False)


def _is_symbol(token):
  """Returns whether a token is a variable or a time of day."""
  if token.kind == tokens_lib.CLOCK:
    return True
  return (
    token.kind == tokens_lib.WORD
    and token.text.partition('^')[0] not in _UNIT_LETTERS
    and len(token.text.partition('^')[0]) == 1
    and token.text[0].isalpha()
  )


def end_of_expression(tokens: Sequence[Token], begin: int) -> int:
  """Returns the end of the longest expression that starts at a token.

  Args:
    tokens: the tokens of a text.
    begin: index of the first token.

  Returns:
    Index of the token after the expression; `begin` if there is none. Units
    inside the expression belong to it, trailing units do not.
  """
  return _scan(tokens, begin)[0]


def find_last(
  tokens: Sequence[Token], may_begin: Callable[[int], bool]
) -> tuple[int, int] | None:
  """Finds the longest expression at the end of the tokens, except units.

  A failed scan returns the position where it stopped, or its last unclosed
  parenthesis. Expressions that start before that position do not end later, so
  the next scan starts there and all scans together take linear time.

  Args:
    tokens: the tokens of a text.
    may_begin: returns whether an expression may start at a token index.

  Returns:
    Indices of the first token and of the token after the last one; None if
    there is no such expression.
  """
  begin = 0
  while begin < len(tokens):
    after = begin + 1
    if may_begin(begin):
      end, stopped = _scan(tokens, begin)
      if end > begin and skip_units(tokens, end) == len(tokens):
        return begin, end
      after = max(after, stopped)
    begin = after
  return None


def _scan(tokens, begin):
  """Returns the end of an expression, and where to start the next scan."""
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
      after = skip_units(tokens, at)
      closes = (
        opened
        and after < len(tokens)
        and tokens[after].kind == tokens_lib.CLOSE
      )
      if after == at or not (closes or _follows(tokens, after)):
        break
      at = after
    if not wants_operand and not opened:
      end = at
  return end, opened[-1] + 1 if opened else at


def _is_sign(token):
  return token.kind == tokens_lib.OPERATOR and token.text in '+-'


def _follows(tokens, at):
  """Returns whether an operator and an operand are at an index."""
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
  """Returns whether an index has a parenthesis that multiplies: 2(3)."""
  last = tokens[at - 1]
  return (
    tokens[at].kind == tokens_lib.OPEN
    and last.kind in (tokens_lib.NUMBER, tokens_lib.CLOSE)
    and last.end == tokens[at].begin
  )


def skip_units(tokens: Sequence[Token], at: int) -> int:
  """Returns the index of the first token that is not part of a unit.

  Units are words, and parentheses that contain only words.

  Args:
    tokens: the tokens of a text.
    at: index of the first token.
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
  """Returns the tokens without units; see skip_units."""
  kept, at = [], 0
  while at < len(tokens):
    after = skip_units(tokens, at)
    if after > at:
      at = after
      continue
    kept.append(tokens[at])
    at += 1
  return kept


class _Problem(Exception):
  """Raised with the reason why an expression has no value."""


def _bounded(value):
  large = max(value.numerator.bit_length(), value.denominator.bit_length())
  if large > MAX_BITS:
    raise _Problem(TOO_LARGE)
  return value


class _Parser:
  """Recursive descent parser: sums of products of signed powers of atoms."""

  def __init__(self, tokens: Sequence[Token]):
    self.operations = 0
    self._tokens, self._at, self._depth = tokens, 0, 0

  def whole(self) -> fractions.Fraction:
    value = self._sum()
    if self._at < len(self._tokens):
      raise _Problem(NO_PARSE)
    return value

  def _next(self, kind, texts='') -> str:
    """Consumes the next token if it has a kind and one of the texts."""
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
    if abs(exponent) > MAX_EXPONENT:
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
  """Context manager that increases the nesting depth of a parser."""

  def __init__(self, parser):
    self._parser = parser

  def __enter__(self):
    self._parser._depth += 1
    if self._parser._depth > MAX_DEPTH:
      raise _Problem(TOO_LARGE)

  def __exit__(self, *unused):
    self._parser._depth -= 1
