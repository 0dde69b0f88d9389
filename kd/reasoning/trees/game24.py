"""The game of 24: four numbers, each used once, that are to make 24.

A thought is one operation on two of the numbers that are left, with what is
left then:

  8 / 3 = 8/3 left 3 8 8/3

Its terms stand apart by blanks, so that '8/3' is a number and '8 / 3' a step.
Values are exact fractions. Puzzles: the 1,362 of 4nums.com as arXiv 2305.10601
uses them, in order of the time that people take.
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
# How tightly an expression holds together: sum, product, number.
_SUM, _PRODUCT, _ATOM = range(3)


class Number(NamedTuple):
  """A number that is left.

  Attributes:
    value: exact.
    text: the expression that it came from.
    binding: 0 for a sum or difference, 1 product or quotient, 2 given number.
  """

  value: _Fraction
  text: str
  binding: int


def _join(a: Number, sign: str, b: Number) -> Number:
  """Returns the number that an operation makes; raises Fault."""
  value = _OPERATORS[sign](a.value, b.value)
  binding = _SUM if sign in '+-' else _PRODUCT
  left = f'({a.text})' if a.binding < binding else a.text
  # What is subtracted or divided by: (a-(b-c)), (a/(b*c)).
  loose = b.binding <= binding if sign in '-/' else b.binding < binding
  right = f'({b.text})' if loose else b.text
  return Number(value, f'{left}{sign}{right}', binding)


@functools.lru_cache(maxsize=1 << 18)
def reachable(values: tuple[_Fraction, ...]) -> bool:
  """Returns whether sorted values, each used once, can make the goal."""
  if len(values) == 1:
    return values[0] == GOAL
  for i, j in itertools.combinations(range(len(values)), 2):
    rest = values[:i] + values[i + 1 : j] + values[j + 1 :]
    a, b = values[i], values[j]
    made = {a + b, a - b, b - a, a * b}
    made |= {x / y for x, y in ((a, b), (b, a)) if y}
    if any(reachable(tuple(sorted((*rest, value)))) for value in made):
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
  """Returns the first number of that value, and the others; raises Fault."""
  for i, number in enumerate(numbers):
    if number.value == value:
      return number, numbers[:i] + numbers[i + 1 :]
  raise tree_problem.Fault('not_left', str(value))


# A puzzle and the steps to its end.
_EXAMPLES = (
  ('4 4 6 8', ('4 + 8 = 12', '6 - 4 = 2', '12 * 2 = 24')),
  ('2 9 10 12', ('12 * 2 = 24', '10 - 9 = 1', '24 * 1 = 24')),
  ('4 9 10 13', ('13 - 9 = 4', '10 - 4 = 6', '4 * 6 = 24')),
)


class Game24:
  """The problem; see tree_problem.TreeProblem."""

  name = 'game24'
  enumerable = True
  most_examples = len(_EXAMPLES)

  def root(self, instance: tree_problem.Instance) -> tree_problem.State:
    numbers = tuple(
      Number(_Fraction(int(n)), n, _ATOM) for n in instance.question.split()
    )
    return tree_problem.State(instance, (), numbers)

  def depth(self, instance: tree_problem.Instance) -> int:
    return len(instance.question.split()) - 1

  def propose(self, state: tree_problem.State) -> list[str]:
    """Returns all steps, those with the plainest results first."""
    found = {}
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
        found.setdefault(text, number.value)
    plain = lambda text: (found[text] < 0, found[text].denominator > 1)
    return sorted(found, key=plain)

  def apply(
    self, state: tree_problem.State, thought: str
  ) -> tree_problem.State:
    """Reads a step; what is left need not be said, but must be right."""
    if not thought.strip():
      raise tree_problem.Fault('empty', '')
    if len(thought) > tree_problem.LONGEST:
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
    """One number is left, and the expression of the steps is right."""
    if not self.is_terminal(state):
      return False
    question = state.instance.question
    return game24_answers.check(question, self.answer(state)).right

  def verify(self, state: tree_problem.State) -> float:
    """1 if the goal can still be reached, which a solver finds out, else 0."""
    return float(reachable(_values(state)))

  def examples(self, count: int) -> str:
    if not count:
      return ''
    told = [
      f'Use each number once, with + - * /, to make {GOAL}. Each line takes '
      'two of the numbers that are left and tells what is left then.\n'
    ]
    for question, steps in _EXAMPLES[:count]:
      instance = tree_problem.Instance('', question, '')
      state = self.root(instance)
      for step in steps:
        state = self.apply(state, step)
      told.append(f'{self.inputs(instance)}{self.targets(state)}\n')
    return '\n'.join(told) + '\n'

  def inputs(self, instance: tree_problem.Instance) -> str:
    return f'Make {GOAL}: {instance.question}\n'

  def targets(self, state: tree_problem.State) -> str:
    """Returns the steps, and the expression that they amount to."""
    return f'{tree_problem.written(state)}{answers.MARKER} {self.answer(state)}'

  def answer(self, state: tree_problem.State) -> str:
    """Returns the expression of a terminal state, from its steps."""
    return state.position[0].text

  def value_inputs(self, state: tree_problem.State) -> str:
    return (
      f'Can these numbers make {GOAL}, each used once? Answer sure, likely or '
      f'impossible.\n10 14\nsure\n1 1\nimpossible\n{_listed(state)}\n'
    )

  def vote_inputs(self, states: Sequence[tree_problem.State]) -> str:
    choices = ''.join(f'{i}: {_listed(s)}\n' for i, s in enumerate(states, 1))
    return (
      f'Which of these make {GOAL} most easily, each number used once?\n'
      f'{choices}Best: '
    )


def _values(state):
  return tuple(sorted(number.value for number in state.position))


def _listed(state):
  return ' '.join(str(number.value) for number in state.position)


def _step(first, sign, second, result, rest) -> str:
  left = ' '.join(str(n.value) for n in (*rest, result))
  return f'{first.value} {sign} {second.value} = {result.value} {_LEFT} {left}'


def read(path: str) -> list[tree_problem.Instance]:
  """Puzzles of a CSV file, in its order; ids tell their ranks.

  Args:
    path: has a column Puzzles, each 2 to 5 numbers of 1 to 999.

  Raises:
    ConfigError: there is no such file, or a line is wrong.
  """
  if not os.path.isfile(path):
    raise errors.ConfigError(
      'search.data',
      f'no file {path!r}',
      legal='a CSV file with a column Puzzles',
    )
  found = []
  lines = io.StringIO(text_files.read(path), newline='')
  for rank, row in enumerate(csv.DictReader(lines), 1):
    puzzle = row.get('Puzzles') or ''
    if not _PUZZLE.fullmatch(puzzle):
      raise errors.ConfigError(
        f'{path}:{rank + 1}',
        f'Puzzles is {puzzle[:60]!r}',
        legal='2 to 5 numbers of 1 to 999, separated by spaces',
      )
    found.append(tree_problem.Instance(f'game24-{rank:04d}', puzzle, ''))
  return found
