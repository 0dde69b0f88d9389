r"""Whether an expression wins the game of 24: exact, and never executed.

The answer of a reply is the line behind its last '####', without one its last
line that isn't empty; a \boxed{} around it is taken off. It is an expression
of the four signs, parentheses and the puzzle's numbers, each exactly once, and
may say '= 24' behind it: what counts is what the expression comes to.
"""

import collections
from collections.abc import Sequence
import dataclasses
import fractions
import itertools

from kd.reasoning.arithmetic import answers
from kd.reasoning.arithmetic import expressions
from kd.reasoning.arithmetic import notation
from kd.reasoning.arithmetic import tokens as tokens_lib

GOAL = 24
RIGHT = 'right'
# Reasons why a reply is wrong.
REASONS = {
  'empty': 'nothing is answered',
  'no_parse': 'the answer is no expression of + - * / and parentheses',
  'reused': 'a number is used more often than it is given',
  'left_out': 'a number is not used',
  'joined': 'given numbers are written together as one',
  'not_given': 'a number is used that is not given',
  'division_by_zero': 'it divides by zero',
  'wrong_value': 'it comes to something else',
}
_LONGEST = 400  # Characters of an answer.
_BOX = '\\boxed{'


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a reply is worth.

  Attributes:
    reason: 'right', or a key of REASONS.
    value: what the expression comes to; None if it is none.
  """

  reason: str
  value: fractions.Fraction | None = None

  @property
  def right(self) -> bool:
    return self.reason == RIGHT


def check(question: str, reply: str) -> Verdict:
  """Judges a reply.

  Args:
    question: the puzzle's numbers, a blank between them.
    reply: any text.

  Returns:
    The verdict; never raises, in time linear in the reply's length. A reply of
    more than notation.LONGEST characters is no expression.
  """
  if len(reply) > notation.LONGEST:
    return Verdict('no_parse')
  text = _answer(reply)
  if not text:
    return Verdict('empty')
  tokens = tokens_lib.read(notation.plain(text[: _LONGEST + 1]))
  if len(text) > _LONGEST:
    return Verdict('no_parse')
  sides: list[list[tokens_lib.Token]] = [[]]
  for token in tokens:
    if token.kind == tokens_lib.EQUALS:
      sides.append([])
    else:
      sides[-1].append(token)
  claims_goal = [[t.text for t in side] == [str(GOAL)] for side in sides[1:]]
  if len(sides) > 2 or not all(claims_goal) or not _is_plain(sides[0]):
    return Verdict('no_parse')
  found = expressions.of_tokens(sides[0])
  if found.problem == expressions.DIVISION_BY_ZERO:
    return Verdict('division_by_zero')
  if found.problem:
    return Verdict('no_parse')
  used = [t.text for t in sides[0] if t.kind == tokens_lib.NUMBER]
  reason = _numbers(question.split(), used)
  if not reason:
    reason = RIGHT if found.value == GOAL else 'wrong_value'
  return Verdict(reason, found.value)


def _answer(reply: str) -> str:
  """Returns the text that is judged, '' if there is none."""
  if answers.MARKER in reply:
    lines = reply.rpartition(answers.MARKER)[2].splitlines()[:1]
  else:
    lines = [line for line in reply.splitlines() if line.strip()][-1:]
  text = lines[0].strip() if lines else ''
  if text.startswith(_BOX) and text.endswith('}'):
    text = text[len(_BOX) : -1].strip()
  return text


def _is_plain(tokens: Sequence[tokens_lib.Token]) -> bool:
  """Whether they are digits, signs between operands, and parentheses."""
  last = tokens_lib.OPEN
  operand = tokens_lib.NUMBER, tokens_lib.CLOSE
  for token in tokens:
    if token.kind == tokens_lib.NUMBER:
      fits = token.text.isdecimal() and last not in operand
    elif token.kind == tokens_lib.OPERATOR:
      fits = token.text in '+-*/' and last in operand
    elif token.kind == tokens_lib.OPEN:
      fits = last not in operand
    else:
      fits = token.kind == tokens_lib.CLOSE
    if not fits:
      return False
    last = token.kind
  return bool(tokens)


def _numbers(given: Sequence[str], used: Sequence[str]) -> str:
  """What is wrong with the numbers that were used, '' if nothing is."""
  left = collections.Counter(given)
  left.subtract(used)
  for number in used:
    if left[number] < 0:
      if number in given:
        return 'reused'
      return 'joined' if number in _joined(given) else 'not_given'
  return 'left_out' if any(left.values()) else ''


def _joined(given: Sequence[str]) -> set[str]:
  """Returns the numbers written together, two or more of them, in any order."""
  return {
    ''.join(order)
    for count in range(2, len(given) + 1)
    for order in itertools.permutations(given, count)
  }
