"""Tests pass@k against the enumeration of all choices of k answers."""

import itertools

import pytest

from kd.benchmarking import pass_at_k


@pytest.mark.parametrize('n', [1, 4, 7])
def test_pass_at_k_is_the_share_of_choices_with_a_correct_answer(n):
  for right in range(n + 1):
    answers = [number < right for number in range(n)]
    for k in range(1, n + 1):
      choices = list(itertools.combinations(answers, k))
      expected = sum(map(any, choices)) / len(choices)
      found = pass_at_k.estimate(n, right, k)
      assert found == pytest.approx(expected, abs=1e-12)
