"""The problems are right, distinct, and split without overlap."""

import re

import pytest

from kd.core import errors
from kd.input_pipeline import arithmetic


def _evaluate(question):
  return sum(int(term) for term in re.findall(r'[+-]?\d+', question))


def test_steps_and_answer_are_right():
  for problem in arithmetic.generate('train', 2000, 2, 3, seed=0):
    assert problem.answer == _evaluate(problem.question) >= 0
    last = None
    for step in problem.steps:
      left, right = step.split('=')
      assert _evaluate(left) == int(right)
      assert last is None or left.startswith(f'{last}')
      last = right
    assert last == str(problem.answer)


def test_splits_are_disjoint_and_lists_are_stable():
  train = arithmetic.generate('train', 3000, 2, 2, seed=0)
  held = arithmetic.generate('validation', 300, 2, 2, seed=1)
  questions = [p.question for p in train]
  assert len(set(questions)) == 3000
  assert not set(questions) & {p.question for p in held}
  assert arithmetic.generate('train', 50, 2, 2, seed=0) == train[:50]
  assert arithmetic.generate('train', 50, 2, 2, seed=1) != train[:50]


def test_the_noise_share_is_wrong_and_the_rest_unchanged():
  problems = arithmetic.generate('train', 4000, 2, 3, seed=0)
  noisy = [arithmetic.spoil(p, 0.25, seed=3) for p in problems]
  wrong = [n for p, n in zip(problems, noisy) if n != p]
  assert abs(len(wrong) / 4000 - 0.25) < 0.03
  for problem in wrong:
    assert problem.answer != _evaluate(problem.question)
    assert problem.steps[-1].endswith(f'={problem.answer}')
  assert noisy == [arithmetic.spoil(p, 0.25, seed=3) for p in problems]


def test_too_many_problems_are_refused():
  with pytest.raises(errors.ConfigError, match='exist; legal: a smaller'):
    arithmetic.generate('train', 1000, 1, 2, seed=0)
  with pytest.raises(errors.ConfigError, match="'validation'"):
    arithmetic.generate('valid', 1, 1, 2, seed=0)
