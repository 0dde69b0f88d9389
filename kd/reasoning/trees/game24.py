"""Defines the game of 24: make 24 from four numbers, each used once.

A thought is an operation on two of the remaining numbers, followed by the
numbers that remain then:

  8 / 3 = 8/3 left 3 8 8/3

Terms are separated by spaces, so that '8/3' is a number and '8 / 3' a step.
Values are exact fractions. The puzzles are the 1,362 of 4nums.com that arXiv
2305.10601 uses, ordered by the time that people need.
"""

from collections.abc import Callable, Sequence
import csv
import fractions
import functools
import io
import itertools
import os
import re
from typing import NamedTuple

from kd.core import errors
from kd.core import text_files
from kd.reasoning.arithmetic import answers
from kd.reasoning.trees import game24_answers
from kd.reasoning.trees import tree_problem

GOAL = game24_answers.GOAL
FILE = os.path.join('game24', '24.csv')
_LEFT = 'left'
_NUMBER = re.compile(r'-?[0-9]{1,9}(/[0-9]{1,9})?')
_PUZZLE = re.compile(r'[1-9][0-9]{0,2}( [1-9][0-9]{0,2}){1,4}')
_SIGNS = str.maketrans('\u2212\u00d7\u00f7', '-*/')

_Fraction = fractions.Fraction


def _divide(a, b):
  if not b:
    raise tree_problem.Fault('division_by_zero', f'{a} / {b}')
  return a / b


_OPERATORS: dict[str, Callable[[_Fraction, _Fraction], _Fraction]] = {
  '+': lambda a, b: a + b,
  '-': lambda a, b: a - b,
  '*': lambda a, b: a * b,
  '/': _divide,
}
# Precedence of an expression: sum, product, number.
_SUM, _PRODUCT, _ATOM = range(3)


class Number(NamedTuple):
  """A remaining number.

  Attributes:
    value: exact value.
    text: the expression that computes it.
    precedence: 0: sum or difference; 1: product or quotient; 2: given number.
  """

  value: _Fraction
  text: str
  precedence: int


def _join(a: Number, sign: str, b: Number) -> Number:
  """Returns the result of an operation; raises Fault."""
  value = _OPERATORS[sign](a.value, b.value)
  precedence = _SUM if sign in '+-' else _PRODUCT
  left = f'({a.text})' if a.precedence < precedence else a.text
  # Right operands of - and /: (a-(b-c)), (a/(b*c)).
  needs_parentheses = (
    b.precedence <= precedence if sign in '-/' else b.precedence < precedence
  )
  right = f'({b.text})' if needs_parentheses else b.text
  return Number(value, f'{left}{sign}{right}', precedence)


@functools.lru_cache(maxsize=1 << 18)
def reachable(values: tuple[_Fraction, ...]) -> bool:
  """Returns whether the sorted values can make the goal."""
  if len(values) == 1:
    return values[0] == GOAL
  for i, j in itertools.combinations(range(len(values)), 2):
    rest = values[:i] + values[i + 1 : j] + values[j + 1 :]
    a, b = values[i], values[j]
    results = {a + b, a - b, b - a, a * b}
    results |= {x / y for x, y in ((a, b), (b, a)) if y}
    if any(reachable(tuple(sorted((*rest, value)))) for value in results):
      return True
  return False


def _number(text):
  if not _NUMBER.fullmatch(text):
    raise tree_problem.Fault('no_parse', repr(text[:40]))
  above, _, below = text.partition('/')
  if below and not int(below):
    raise tree_problem.Fault('division_by_zero', text)
  return _Fraction(int(above), int(below or 1))


def _take(numbers, value):
  """Returns the first number with a value, and the rest; raises Fault."""
  for i, number in enumerate(numbers):
    if number.value == value:
      return number, numbers[:i] + numbers[i + 1 :]
  raise tree_problem.Fault('not_left', str(value))


# Puzzles and their solutions.
_EXAMPLES = (
  ('4 4 6 8', ('4 + 8 = 12', '6 - 4 = 2', '12 * 2 = 24')),
  ('2 9 10 12', ('12 * 2 = 24', '10 - 9 = 1', '24 * 1 = 24')),
  ('4 9 10 13', ('13 - 9 = 4', '10 - 4 = 6', '4 * 6 = 24')),
)


class Game24:
  """The game of 24; see tree_problem.TreeProblem."""

  name = 'game24'
  enumerable = True
  max_examples = len(_EXAMPLES)

  def root(self, instance: tree_problem.Instance) -> tree_problem.State:
    numbers = tuple(
      Number(_Fraction(int(n)), n, _ATOM) for n in instance.question.split()
    )
    return tree_problem.State(instance, (), numbers)

  def depth(self, instance: tree_problem.Instance) -> int:
    return len(instance.question.split()) - 1

  def propose(self, state: tree_problem.State) -> list[str]:
    """Returns all steps: integer results before fractions, negatives last."""
    value_by_step = {}
    for i, j in itertools.combinations(range(len(state.position)), 2):
      a, b = state.position[i], state.position[j]
      for x, sign, y in (
        *((a, '+', b), (a, '*', b), (a, '-', b), (b, '-', a)),
        *((a, '/', b), (b, '/', a)),
      ):
        if sign == '/' and not y.value:
          continue
        number = _join(x, sign, y)
        rest = [n for k, n in enumerate(state.position) if k not in (i, j)]
        text = _step(x, sign, y, number, rest)
        value_by_step.setdefault(text, number.value)
    order = lambda text: (
      value_by_step[text] < 0,
      value_by_step[text].denominator > 1,
    )
    return sorted(value_by_step, key=order)

  def apply(
    self, state: tree_problem.State, thought: str
  ) -> tree_problem.State:
    """Parses a step; the remaining numbers are optional, but must be right."""
    if not thought.strip():
      raise tree_problem.Fault('empty', '')
    if len(thought) > tree_problem.MAX_CHARS:
      raise tree_problem.Fault('no_parse', f'{len(thought)} characters')
    head, _, tail = thought.translate(_SIGNS).partition(_LEFT)
    words = head.split()
    if len(words) != 5 or words[1] not in _OPERATORS or words[3] != '=':
      raise tree_problem.Fault('no_parse', repr(thought[:40]))
    first, rest = _take(state.position, _number(words[0]))
    second, rest = _take(rest, _number(words[2]))
    number = _join(first, words[1], second)
    if _number(words[4]) != number.value:
      raise tree_problem.Fault('wrong_result', repr(head.strip()))
    rest = (*rest, number)
    claimed = [_number(word) for word in tail.split()]
    if claimed and sorted(claimed) != sorted(n.value for n in rest):
      raise tree_problem.Fault('wrong_left', repr(thought[:80]))
    text = _step(first, words[1], second, number, rest[:-1])
    return tree_problem.State(state.instance, (*state.thoughts, text), rest)

  def key(self, state: tree_problem.State) -> str:
    return ' '.join(str(v) for v in _values(state))

  def is_terminal(self, state: tree_problem.State) -> bool:
    return len(state.position) == 1

  def is_solution(self, state: tree_problem.State) -> bool:
    """Returns whether one number is left and the expression is right."""
    if not self.is_terminal(state):
      return False
    question = state.instance.question
    return game24_answers.check(question, self.answer(state)).right

  def verify(self, state: tree_problem.State) -> float:
    """Returns 1 if a solver can still reach the goal, else 0."""
    return float(reachable(_values(state)))

  def examples(self, count: int) -> str:
    if not count:
      return ''
    parts = [
      f'Use each number once, with + - * /, to make {GOAL}. Each line takes '
      'two of the numbers that are left and tells what is left then.\n'
    ]
    for question, steps in _EXAMPLES[:count]:
      instance = tree_problem.Instance('', question, '')
      state = self.root(instance)
      for step in steps:
        state = self.apply(state, step)
      parts.append(f'{self.inputs(instance)}{self.targets(state)}\n')
    return '\n'.join(parts) + '\n'

  def inputs(self, instance: tree_problem.Instance) -> str:
    return f'Make {GOAL}: {instance.question}\n'

  def targets(self, state: tree_problem.State) -> str:
    """Returns the steps and the resulting expression."""
    return (
      f'{tree_problem.text_so_far(state)}{answers.MARKER} {self.answer(state)}'
    )

  def answer(self, state: tree_problem.State) -> str:
    """Returns the expression of a terminal state."""
    return state.position[0].text

  def value_inputs(self, state: tree_problem.State) -> str:
    return (
      f'Can these numbers make {GOAL}, each used once? Answer sure, likely or '
      f'impossible.\n10 14\nsure\n1 1\nimpossible\n{_numbers_text(state)}\n'
    )

  def vote_inputs(self, states: Sequence[tree_problem.State]) -> str:
    choices = ''.join(
      f'{i}: {_numbers_text(s)}\n' for i, s in enumerate(states, 1)
    )
    return (
      f'Which of these make {GOAL} most easily, each number used once?\n'
      f'{choices}Best: '
    )


def _values(state):
  return tuple(sorted(number.value for number in state.position))


def _numbers_text(state):
  return ' '.join(str(number.value) for number in state.position)


def _step(first, sign, second, result, rest) -> str:
  left = ' '.join(str(n.value) for n in (*rest, result))
  return f'{first.value} {sign} {second.value} = {result.value} {_LEFT} {left}'


def read(path: str) -> list[tree_problem.Instance]:
  """Reads puzzles from a CSV file; ids contain their rank in the file.

  Args:
    path: a file with a column Puzzles: 2 to 5 numbers from 1 to 999 each.

  Raises:
    ConfigError: there is no such file, or a line is invalid.
  """
  if not os.path.isfile(path):
    raise errors.ConfigError(
      'search.data',
      f'no file {path!r}',
      legal='a CSV file with a column Puzzles',
    )
  instances = []
  lines = io.StringIO(text_files.read(path), newline='')
  for rank, row in enumerate(csv.DictReader(lines), 1):
    puzzle = row.get('Puzzles') or ''
    if not _PUZZLE.fullmatch(puzzle):
      raise errors.ConfigError(
        f'{path}:{rank + 1}',
        f'Puzzles is {puzzle[:60]!r}',
        legal='2 to 5 numbers of 1 to 999, separated by spaces',
      )
    instances.append(tree_problem.Instance(f'game24-{rank:04d}', puzzle, ''))
  return instances
