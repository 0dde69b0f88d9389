"""What random expressions solve: the baseline of experiments/game24.

A random expression takes two of the numbers that are left, in either order, and
one of + - * /, all with equal probability, and puts the result in their place,
until one number is left. Its probability of making 24 is counted exactly; a
division by zero makes nothing.
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
    numbers: those to use, in rising order.
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
  """Returns how many puzzles are solved on average by independent guesses.

  Args:
    puzzles: the numbers of each, such as '1 4 8 8'.
    guesses: random expressions for each puzzle; a mean over puzzles may be a
      fraction.
  """
  chances = [
    chance(tuple(sorted(map(_Fraction, puzzle.split())))) for puzzle in puzzles
  ]
  return sum(1 - float(1 - p) ** guesses for p in chances)
