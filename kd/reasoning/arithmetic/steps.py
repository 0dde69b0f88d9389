"""Checks each 'a op b = c' of a worked solution, exactly.

Statements are the calculator's marks of GSM8K (<<48/2=24>>) and whatever stands
on both sides of an equals sign in the prose around them; in a chain a = b = c
each side is compared with the next. The rules:

- A side is right if it has the other's value; it is rounded if it is one number
  that is the other's value rounded, half away from zero, to the digits that it
  shows, of which two at least are significant: 100/3 = 33, but not 7/2 = 4.
- A percent sign on the result alone may be a hundredth or a unit: 20/80 = 25%,
  and 20/80*100 = 25%. So may words such as 'million' be.
- Words behind numbers are units and have no effect. Two numbers without an
  operation ('1 hour = 60 minutes') are a definition and not checked, unless
  they end a chain and name no different units.
- Where words or letters stand for numbers ('2x + 4 = 10', 'cost + 5 * 2 = 9')
  there is nothing to check: symbolic, neither right nor wrong.
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
# Beside these, the problems of expressions.
KINDS = (
  *(RIGHT, ROUNDED, WRONG, expressions.NO_PARSE),
  *(expressions.DIVISION_BY_ZERO, expressions.TOO_LARGE, expressions.SYMBOLIC),
)
# Kinds that a trace is rejected for.
ERRORS = tuple(
  kind for kind in KINDS if kind not in (RIGHT, ROUNDED, expressions.SYMBOLIC)
)

_MARK = re.compile(r'<<([^<>\n]*)>>')
# What lists put in front of a line.
_LIST_MARK = re.compile(r'\A\s*(?:[-*\u2022+]|[0-9]{1,3}[.)])\s+')
Token = tokens_lib.Token

MOST_TOKENS = expressions.MOST_TOKENS  # Of one side.

# Emphasis, not powers: no digit or parenthesis on both sides.
_STARS = re.compile(r'(?<![0-9)\s])\s*\*\*|\*\*(?!\s*[-0-9(.$])')


@dataclasses.dataclass(frozen=True)
class Step:
  """One statement.

  Attributes:
    text: its two sides, as they stand in the solution.
    kind: one of KINDS.
    wanted: the exact value of the other side where it is wrong; None otherwise.
    marked: it is a calculator's mark.
  """

  text: str
  kind: str
  wanted: fractions.Fraction | None
  marked: bool


def check(text: str) -> list[Step]:
  """Returns the statements of a solution with their verdicts, line by line.

  Never raises, whatever the text is; time is linear in its length. A text of
  more than notation.LONGEST characters has none.
  """
  found = []
  if len(text) > notation.LONGEST:
    return found
  for line in text.splitlines():
    if not line or line.isspace():
      continue
    found += [_marked(m[1]) for m in _MARK.finditer(line)]
    line = _LIST_MARK.sub('', _MARK.sub('', line), count=1)
    found += _in_prose(notation.plain(_STARS.sub(' ', line)))
  return found


def compare(left: expressions.Evaluation, right: expressions.Evaluation) -> str:
  """RIGHT, ROUNDED or WRONG, of two sides that have values."""
  pairs = [(left, right)]
  if right.bare and not left.has_marks:
    # Where a percent sign or 'million' is a unit.
    value, unit = right.bare
    pairs.append((left, dataclasses.replace(right, value=value, unit=unit)))
  if any(a.value == b.value for a, b in pairs):
    return RIGHT
  if any(_rounds(a.value, b) or _rounds(b.value, a) for a, b in pairs):
    return ROUNDED
  return WRONG


def _rounds(exact, shown):
  """Returns whether one number is `exact` to the digits that it shows."""
  if shown.unit is None or abs(shown.value) < 10 * shown.unit:
    return False
  rest = abs(exact) - abs(shown.value)
  half = shown.unit / 2
  return exact * shown.value > 0 and -half <= rest < half


def _judge(text, left, right, marked):
  """Returns the step of two sides."""
  for side in (left, right):
    if side.problem:
      return Step(text, side.problem, None, marked)
  kind = compare(left, right)
  return Step(text, kind, left.value if kind == WRONG else None, marked)


def _marked(text):
  """The step of a calculator's mark: its first wrong pair, or its last."""
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
    evaluation: of it.
    operators: how many signs it has, the first token not counted.
    begin: where it begins in the line.
    end: where it ends.
    named: words stand before it, or behind it.
    units: the word behind it, '' without one.
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
  last = None  # The right side of the statement before.
  for before, behind in zip(pieces, pieces[1:], strict=False):
    left, right = _left(before), _right(behind)
    in_chain = bool(last and left) and last.begin == left.begin
    last = None
    if left is None:
      continue
    if right is None:
      if left.operators:
        words = any(t.kind == tokens_lib.WORD for t in behind)
        kind = expressions.SYMBOLIC if words else expressions.NO_PARSE
        text = f'{notation.shown(line[left.begin : left.end])} ='
        yield Step(text, left.evaluation.problem or kind, None, False)
    elif _is_statement(left, right, in_chain):
      last = right
      text = notation.shown(line[left.begin : right.end])
      yield _judge(text, left.evaluation, right.evaluation, False)


def _is_statement(left, right, in_chain):
  """Returns whether two sides say something about arithmetic."""
  if in_chain:
    differ = left.units and right.units and left.units != right.units
    return bool(right.operators or not differ)
  if left.operators:
    return True
  # '2 boxes = 2 * 10' and 'on day 3 = 4 + 5' name what is computed.
  return bool(right.operators) and not left.named


def _left(piece: Sequence[Token]) -> _Side | None:
  """Returns the longest expression at the end of what stands before a sign."""
  breaks = [i for i, t in enumerate(piece) if t.kind == tokens_lib.BREAK]
  piece = piece[breaks[-1] + 1 if breaks else 0 :]
  is_cut, piece = len(piece) > MOST_TOKENS, piece[-MOST_TOKENS:]
  span = expressions.last_begin(piece, functools.partial(_may_begin, piece))
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
  """Returns whether an expression may begin at a token."""
  token = piece[begin]
  if token.kind != tokens_lib.OPERATOR:
    return token.kind in tokens_lib.OPERANDS
  if token.text not in '+-' or begin + 1 == len(piece):
    return False
  # A sign, unless it stands between a word and a number, apart from both.
  return (
    begin == 0
    or piece[begin - 1].kind == tokens_lib.OPEN
    or token.end == piece[begin + 1].begin
  )


def _is_call(before, token):
  """Returns whether a parenthesis holds a function's argument: 'f(2)'."""
  return (
    before.kind == tokens_lib.WORD
    and token.kind == tokens_lib.OPEN
    and before.end == token.begin
  )


def _right(piece: Sequence[Token]) -> _Side | None:
  """The longest expression at the beginning of what stands behind a sign."""
  piece = piece[: MOST_TOKENS + 1]
  end = expressions.extent(piece, 0)
  if not end:
    return None
  if end > MOST_TOKENS - 1:
    return _side(piece, end, (), expressions.TOO_LARGE, False)
  units = list(
    itertools.takewhile(lambda t: t.kind == tokens_lib.WORD, piece[end:])
  )
  if units and units[0].begin > piece[end - 1].end:
    # Of what goes on after the statement, the first word may be a unit.
    symbolic, units = False, [u for u in units[:1] if len(u.text) > 1]
  else:
    behind = piece[end:][:2]
    symbolic = (
      len(behind) == 2
      and behind[0].kind == tokens_lib.OPERATOR
      and behind[0].text != '-'
      and behind[1].kind == tokens_lib.WORD
    )
  problem = expressions.SYMBOLIC if symbolic else ''
  return _side(piece, end, units, problem, False)


def _side(piece, end, units, problem, named):
  """Returns the side whose expression is the first `end` tokens of a piece."""
  tokens = piece[:end]
  evaluation = (
    expressions.failed(problem)
    if problem
    else expressions.of_tokens([*tokens, *units])
  )
  return _Side(
    evaluation=evaluation,
    operators=sum(t.kind == tokens_lib.OPERATOR for t in tokens[1:]),
    begin=tokens[0].begin,
    end=tokens[-1].end,
    named=named,
    units=units[0].text if units else '',
  )
