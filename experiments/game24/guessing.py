"""The baseline of experiments/game24: random expressions.

A random expression repeatedly replaces two of the remaining numbers, in either
order, with the result of one of + - * /, all with equal probability, until one
number remains. The probability that this number is 24 is counted exactly. A
division by zero never makes 24.
"""

from collections.abc import Iterable
import fractions
import functools
import itertools

from kd.reasoning.trees import game24

_Fraction = fractions.Fraction


@functools.cache
def chance(numbers: tuple[_Fraction, ...]) -> _Fraction:
  """Returns the probability that a random expression makes 24.

  Args:
    numbers: numbers to use, in ascending order.
  """
  if len(numbers) == 1:
    return _Fraction(numbers[0] == game24.GOAL)
  total = _Fraction(0)
  pairs = list(itertools.permutations(range(len(numbers)), 2))
  for i, j in pairs:
    a, b = numbers[i], numbers[j]
    rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
    results = [a + b, a - b, a * b] + ([a / b] if b else [])
    total += sum(chance(tuple(sorted([*rest, r]))) for r in results)
  return total / (4 * len(pairs))


def expected(puzzles: Iterable[str], guesses: float) -> float:
  """Returns the expected number of puzzles that independent guesses solve.

  Args:
    puzzles: numbers of each puzzle, such as '1 4 8 8'.
    guesses: number of random expressions per puzzle; a mean over puzzles may be
      a fraction.
  """
  chances = [
    chance(tuple(sorted(map(_Fraction, puzzle.split())))) for puzzle in puzzles
  ]
  return sum(1 - float(1 - p) ** guesses for p in chances)
