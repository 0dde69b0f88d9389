"""Checks each statement 'a op b = c' of a worked solution exactly.

Statements are GSM8K's calculator marks (<<48/2=24>>) and the two sides of an
equals sign in prose; in a chain a = b = c each side is compared with the next.
The rules:

- A statement is right if both sides have the same value. It is rounded if one
  side is a number that is the other side's value rounded, half away from zero,
  to the shown digits, with at least two significant ones: 100/3 = 33, but not
  7/2 = 4.
- A percent sign only on the result is either a hundredth or a unit: 20/80 = 25%
  and 20/80*100 = 25%. The same holds for words such as 'million'.
- Words after numbers are units and have no effect. Two numbers without an
  operator ('1 hour = 60 minutes') are a definition and not checked, unless
  they end a chain and do not have different units.
- Statements with words or letters in place of numbers ('2x + 4 = 10', 'cost + 5
  * 2 = 9') are symbolic, neither right nor wrong.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import fractions
import functools
import itertools
import re

from kd.reasoning.arithmetic import expressions
from kd.reasoning.arithmetic import notation
from kd.reasoning.arithmetic import tokens as tokens_lib

RIGHT = 'right'
ROUNDED = 'rounded'
WRONG = 'wrong'
# The problems of expressions are kinds as well.
KINDS = (
  *(RIGHT, ROUNDED, WRONG, expressions.NO_PARSE),
  *(expressions.DIVISION_BY_ZERO, expressions.TOO_LARGE, expressions.SYMBOLIC),
)
# Kinds that a trace is rejected for.
ERRORS = tuple(
  kind for kind in KINDS if kind not in (RIGHT, ROUNDED, expressions.SYMBOLIC)
)

_MARK = re.compile(r'<<([^<>\n]*)>>')
# Bullets and numbers of list items.
_LIST_MARK = re.compile(r'\A\s*(?:[-*\u2022+]|[0-9]{1,3}[.)])\s+')
Token = tokens_lib.Token

MAX_TOKENS = expressions.MAX_TOKENS  # Maximum tokens of one side.

# Emphasis, not powers: no digits or parentheses on both sides.
_STARS = re.compile(r'(?<![0-9)\s])\s*\*\*|\*\*(?!\s*[-0-9(.$])')


@dataclasses.dataclass(frozen=True)
class Step:
  """A checked statement.

  Attributes:
    text: both sides, as in the solution.
    kind: one of KINDS.
    expected: exact value of the other side if it is wrong, else None.
    is_mark: whether it is a calculator mark.
  """

  text: str
  kind: str
  expected: fractions.Fraction | None
  is_mark: bool


def check(text: str) -> list[Step]:
  """Returns the checked statements of a solution, line by line.

  Never raises and takes time linear in the length of the text. A text of more
  than notation.MAX_CHARS characters has no statements.
  """
  statements = []
  if len(text) > notation.MAX_CHARS:
    return statements
  for line in text.splitlines():
    if not line or line.isspace():
      continue
    statements += [_mark_step(m[1]) for m in _MARK.finditer(line)]
    line = _LIST_MARK.sub('', _MARK.sub('', line), count=1)
    statements += _in_prose(notation.normalize(_STARS.sub(' ', line)))
  return statements


def compare(left: expressions.Evaluation, right: expressions.Evaluation) -> str:
  """Compares two sides with values; returns RIGHT, ROUNDED or WRONG."""
  pairs = [(left, right)]
  if right.unscaled and not left.is_scaled:
    # The percent sign or 'million' may be a unit.
    value, unit = right.unscaled
    pairs.append((left, dataclasses.replace(right, value=value, unit=unit)))
  if any(a.value == b.value for a, b in pairs):
    return RIGHT
  if any(_rounds(a.value, b) or _rounds(b.value, a) for a, b in pairs):
    return ROUNDED
  return WRONG


def _rounds(exact, shown):
  """Returns whether a number is `exact` rounded to the shown digits."""
  if shown.unit is None or abs(shown.value) < 10 * shown.unit:
    return False
  rest = abs(exact) - abs(shown.value)
  half = shown.unit / 2
  return exact * shown.value > 0 and -half <= rest < half


def _judge(text, left, right, is_mark):
  """Returns the statement of two sides."""
  for side in (left, right):
    if side.problem:
      return Step(text, side.problem, None, is_mark)
  kind = compare(left, right)
  return Step(text, kind, left.value if kind == WRONG else None, is_mark)


def _mark_step(text):
  """Returns the statement of a mark: its first wrong pair, or its last."""
  sides = [expressions.evaluate(side) for side in text.split('=')]
  problems = [side.problem for side in sides if side.problem]
  if len(sides) < 2 or problems:
    return Step(text, (problems or [expressions.NO_PARSE])[0], None, True)
  for left, right in zip(sides, sides[1:], strict=False):
    step = _judge(text, left, right, True)
    if step.kind == WRONG:
      return step
  return step


@dataclasses.dataclass(frozen=True)
class _Side:
  """An expression next to an equals sign.

  Attributes:
    evaluation: value of the expression.
    operators: number of operators, not counting the first token.
    begin: start offset in the line.
    end: end offset.
    named: whether words come before or after it.
    units: the word after it, or ''.
  """

  evaluation: expressions.Evaluation
  operators: int
  begin: int
  end: int
  named: bool
  units: str


def _in_prose(line: str) -> Iterator[Step]:
  """Yields the statements of a line without marks."""
  if '=' not in line and 'equals' not in line:
    return
  pieces: list[list[Token]] = [[]]
  for token in tokens_lib.read(line):
    if token.kind == tokens_lib.EQUALS:
      pieces.append([])
    else:
      pieces[-1].append(token)
  last = None  # The right side of the previous statement.
  for before, after in zip(pieces, pieces[1:], strict=False):
    left, right = _left(before), _right(after)
    in_chain = bool(last and left) and last.begin == left.begin
    last = None
    if left is None:
      continue
    if right is None:
      if left.operators:
        words = any(t.kind == tokens_lib.WORD for t in after)
        kind = expressions.SYMBOLIC if words else expressions.NO_PARSE
        text = f'{notation.display(line[left.begin : left.end])} ='
        yield Step(text, left.evaluation.problem or kind, None, False)
    elif _is_statement(left, right, in_chain):
      last = right
      text = notation.display(line[left.begin : right.end])
      yield _judge(text, left.evaluation, right.evaluation, False)


def _is_statement(left, right, in_chain):
  """Returns whether two sides are an arithmetic statement."""
  if in_chain:
    differ = left.units and right.units and left.units != right.units
    return bool(right.operators or not differ)
  if left.operators:
    return True
  # '2 boxes = 2 * 10' and 'on day 3 = 4 + 5' only name the result.
  return bool(right.operators) and not left.named


def _left(piece: Sequence[Token]) -> _Side | None:
  """Returns the longest expression that ends before an equals sign."""
  breaks = [i for i, t in enumerate(piece) if t.kind == tokens_lib.BREAK]
  piece = piece[breaks[-1] + 1 if breaks else 0 :]
  is_cut, piece = len(piece) > MAX_TOKENS, piece[-MAX_TOKENS:]
  span = expressions.find_last(piece, functools.partial(_may_begin, piece))
  if span:
    begin, end = span
    token, before = piece[begin], piece[begin - 1] if begin else None
    units = [t for t in piece[end:] if t.kind == tokens_lib.WORD]
    symbolic = (bool(units) and units[0].text == 'of') or (
      before is not None
      and (before.kind == tokens_lib.OPERATOR or _is_call(before, token))
    )
    named = bool(units) or (
      before is not None and before.kind == tokens_lib.WORD
    )
    problem = expressions.SYMBOLIC if symbolic else ''
    if is_cut and before is None:
      problem = expressions.TOO_LARGE
    return _side(piece[begin:], end - begin, units, problem, named)
  if piece and piece[-1].kind == tokens_lib.OPERATOR:
    return _side(piece[-2:], 2, (), '', False)
  kinds = {t.kind for t in piece}
  if {tokens_lib.OPERATOR, tokens_lib.NUMBER} <= kinds:
    return _side(piece, len(piece), (), expressions.SYMBOLIC, True)
  return None


def _may_begin(piece, begin):
  """Returns whether an expression may start at a token."""
  token = piece[begin]
  if token.kind != tokens_lib.OPERATOR:
    return token.kind in tokens_lib.OPERANDS
  if token.text not in '+-' or begin + 1 == len(piece):
    return False
  # A sign, unless it is between a word and a number with spaces around it.
  return (
    begin == 0
    or piece[begin - 1].kind == tokens_lib.OPEN
    or token.end == piece[begin + 1].begin
  )


def _is_call(before, token):
  """Returns whether a parenthesis is a function call: 'f(2)'."""
  return (
    before.kind == tokens_lib.WORD
    and token.kind == tokens_lib.OPEN
    and before.end == token.begin
  )


def _right(piece: Sequence[Token]) -> _Side | None:
  """Returns the longest expression that starts after an equals sign."""
  piece = piece[: MAX_TOKENS + 1]
  end = expressions.end_of_expression(piece, 0)
  if not end:
    return None
  if end > MAX_TOKENS - 1:
    return _side(piece, end, (), expressions.TOO_LARGE, False)
  units = list(
    itertools.takewhile(lambda t: t.kind == tokens_lib.WORD, piece[end:])
  )
  if units and units[0].begin > piece[end - 1].end:
    # Only the first word after the statement may be a unit.
    symbolic, units = False, [u for u in units[:1] if len(u.text) > 1]
  else:
    after = piece[end:][:2]
    symbolic = (
      len(after) == 2
      and after[0].kind == tokens_lib.OPERATOR
      and after[0].text != '-'
      and after[1].kind == tokens_lib.WORD
    )
  problem = expressions.SYMBOLIC if symbolic else ''
  return _side(piece, end, units, problem, False)


def _side(piece, end, units, problem, named):
  """Returns the side whose expression is the first `end` tokens of a piece."""
  tokens = piece[:end]
  evaluation = (
    expressions.failure(problem)
    if problem
    else expressions.evaluate_tokens([*tokens, *units])
  )
  return _Side(
    evaluation=evaluation,
    operators=sum(t.kind == tokens_lib.OPERATOR for t in tokens[1:]),
    begin=tokens[0].begin,
    end=tokens[-1].end,
    named=named,
    units=units[0].text if units else '',
  )
