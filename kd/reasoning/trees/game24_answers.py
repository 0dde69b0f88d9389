r"""Checks answers of the game of 24 exactly, without executing them.

The answer of a reply is the line after the last '####', or else the last line
that is not empty; \boxed{} around it is removed. It must be an expression of
the four operators, parentheses and each number of the puzzle exactly once, and
may end with '= 24'. Only the value of the expression counts.
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
  'empty': 'the answer is empty',
  'no_parse': 'the answer is not an expression of + - * / and parentheses',
  'reused': 'a number is used more often than it is given',
  'left_out': 'a number is not used',
  'joined': 'given numbers are joined into one number',
  'not_given': 'a number is used that is not given',
  'division_by_zero': 'it divides by zero',
  'wrong_value': 'its value is not the goal',
}
_MAX_CHARS = 400  # Maximum length of an answer.
_BOX = '\\boxed{'


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The result of checking a reply.

  Attributes:
    reason: 'right', or a key of REASONS.
    value: value of the expression; None if it cannot be evaluated.
  """

  reason: str
  value: fractions.Fraction | None = None

  @property
  def right(self) -> bool:
    return self.reason == RIGHT


def check(question: str, reply: str) -> Verdict:
  """Checks a reply; never raises.

  Takes time linear in the length of the reply.

  Args:
    question: the numbers of the puzzle, separated by spaces.
    reply: any text.

  Returns:
    The verdict. A reply of more than notation.MAX_CHARS characters is not
    parsed.
  """
  if len(reply) > notation.MAX_CHARS:
    return Verdict('no_parse')
  text = _answer(reply)
  if not text:
    return Verdict('empty')
  tokens = tokens_lib.read(notation.normalize(text[: _MAX_CHARS + 1]))
  if len(text) > _MAX_CHARS:
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
  evaluation = expressions.evaluate_tokens(sides[0])
  if evaluation.problem == expressions.DIVISION_BY_ZERO:
    return Verdict('division_by_zero')
  if evaluation.problem:
    return Verdict('no_parse')
  used = [t.text for t in sides[0] if t.kind == tokens_lib.NUMBER]
  reason = _number_error(question.split(), used)
  if not reason:
    reason = RIGHT if evaluation.value == GOAL else 'wrong_value'
  return Verdict(reason, evaluation.value)


def _answer(reply: str) -> str:
  """Returns the answer of a reply, or ''."""
  if answers.MARKER in reply:
    lines = reply.rpartition(answers.MARKER)[2].splitlines()[:1]
  else:
    lines = [line for line in reply.splitlines() if line.strip()][-1:]
  text = lines[0].strip() if lines else ''
  if text.startswith(_BOX) and text.endswith('}'):
    text = text[len(_BOX) : -1].strip()
  return text


def _is_plain(tokens: Sequence[tokens_lib.Token]) -> bool:
  """Returns whether tokens are numbers, binary operators and parentheses."""
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


def _number_error(given: Sequence[str], used: Sequence[str]) -> str:
  """Returns a key of REASONS if the numbers are wrong, else ''."""
  left = collections.Counter(given)
  left.subtract(used)
  for number in used:
    if left[number] < 0:
      if number in given:
        return 'reused'
      return 'joined' if number in _joined(given) else 'not_given'
  return 'left_out' if any(left.values()) else ''


def _joined(given: Sequence[str]) -> set[str]:
  """Returns all concatenations of two or more given numbers."""
  return {
    ''.join(order)
    for count in range(2, len(given) + 1)
    for order in itertools.permutations(given, count)
  }
