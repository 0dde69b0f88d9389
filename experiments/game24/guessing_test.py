import fractions
import itertools

import pytest

from experiments.game24 import guessing
from kd.reasoning.trees import game24_answers


def _expressions(terms):
  """Yields every expression that combines two terms at a time."""
  if len(terms) == 1:
    yield terms[0]
  for i, j in itertools.permutations(range(len(terms)), 2):
    rest = [term for k, term in enumerate(terms) if k not in (i, j)]
    for sign in '+-*/':
      yield from _expressions([*rest, f'({terms[i]}{sign}{terms[j]})'])


@pytest.mark.parametrize('puzzle', ['1 1 5 24', '1 2 12'])
def test_chance_is_the_share_of_correct_expressions(puzzle):
  every = list(_expressions(puzzle.split()))
  right = sum(game24_answers.check(puzzle, text).right for text in every)
  numbers = tuple(map(fractions.Fraction, puzzle.split()))
  assert guessing.chance(numbers) == fractions.Fraction(right, len(every)) > 0


def test_expected_number_of_solved_puzzles():
  once, never = '1 2 12', '1 1 1 1'
  chance = float(guessing.chance((1, 2, 12)))
  assert guessing.expected([once], 1) == pytest.approx(chance)
  twice = chance + (1 - chance) * chance
  assert guessing.expected([once, never], 2) == pytest.approx(twice)
  assert guessing.expected([once, never], 1e5) == pytest.approx(1)
