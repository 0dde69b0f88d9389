"""Mixtures in a user's module with invalid rates."""

import pytest

from kd.input_pipeline import user_cases

_MIXTURE = """
for name in ('first', 'second'):
  add(f'{{NAME}}_{{name}}', table(inputs=['a'], targets=['b']))
MINE = NAME + '_first', NAME + '_second'
seqio.MixtureRegistry.add(NAME, {rates})
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
  return user_cases.User(tmp_path, monkeypatch)


@pytest.mark.parametrize(
  'name, rates, words',
  [
    (
      'minus',
      '[(MINE[0], 2.0), (MINE[1], -1.0)]',
      ["rate of task 'minus_second' in mixture 'minus' is -1; legal: a fin"],
    ),
    (
      'not_finite',
      "[(MINE[0], 2.0), (MINE[1], float('nan'))]",
      ["'not_finite_second' in mixture 'not_finite' is nan"],
    ),
    (
      'zeros',
      '[(MINE[0], 0.0), (MINE[1], 0)]',
      ["mixture 'zeros' has the rate 0 for each of its tasks"],
    ),
    (
      'rate_fails',
      '[(MINE[0], 1.0), (MINE[1], lambda task: task.sizes)]',
      ["'rate_fails_second'", 'AttributeError', 'rate_fails_tasks.py:'],
    ),
    (
      'misspelt',
      "[(MINE[0], 1.0), ('misspelt_secnd', 1.0)]",
      ['not registered: misspelt_secnd', "did you mean 'misspelt_second'?"],
    ),
    (
      'uncovered',
      '[(MINE[0], 1.0), MINE[1]]',
      ['need a rate for each task (uncovered_tasks.py:'],
    ),
  ],
)
def test_wrong_rates_are_refused_by_name(name, rates, words, user):
  user.module(name, _MIXTURE.format(rates=rates))
  message = user.refused(name)
  assert message.startswith('data.m') and all(x in message for x in words)
