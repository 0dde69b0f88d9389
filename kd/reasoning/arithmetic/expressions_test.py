"""Tests exact arithmetic against Python's on generated trees, and bounds."""

import fractions
import os
import random
import time

import pytest

from kd.reasoning.arithmetic import expressions

Fraction = fractions.Fraction


@pytest.mark.parametrize(
  'text, value',
  [
    ('48/2', '24'),
    ('100-50-30-15', '5'),
    ('2 + 3 * 4', '14'),
    ('(2+3)*4', '20'),
    ('-2^2', '-4'),
    ('2^3^2', '512'),
    ('2 ** -2', '1/4'),
    ('2(3+4)', '14'),
    ('8/(3-8/3)', '24'),
    ('.5*.5', '1/4'),
    ('1,234.50 + 0.5', '1235'),
    ('50% * 80', '40'),
    ('20% of 50', '10'),
    ('1/2 of $30', '15'),
    ('3 1/2 * 2', '7'),
    ('1 and 1/4 + 1/4', '3/2'),
    ('25 / 1/3', '75'),
    ('100/10/2', '5'),
    ('5 \u00d7 4 \u00f7 2 \u2212 12', '-2'),
    ('5 boxes x 3 eggs/box', '15'),
    ('2x3', '6'),
    ('$5/hour * 3 hours', '15'),
    ('5 (red) + 3', '8'),
    ('12 divided by 4', '3'),
    ('5 times 3 plus 1', '16'),
    ('1.5 million / 3', '500000'),
    (r'\frac{1}{2} \times 12', '6'),
    (r'4 / \frac{1}{2}', '8'),
    (r'3\frac12 + \dfrac{\frac{1}{2}}{2}', '15/4'),
    (r'\left(2 + 3\right) \cdot \$4', '20'),
    ('\u00bd + 1\u00bd', '2'),
    ('--5', '5'),
    ('3\u00b2', '9'),
    ('72 dollars', '72'),
  ],
)
def test_values(text, value):
  evaluation = expressions.evaluate(text)
  assert (evaluation.value, evaluation.problem) == (Fraction(value), '')


@pytest.mark.parametrize(
  'text, problem',
  [
    ('', 'no_parse'),
    ('5 +', 'no_parse'),
    ('5 + * 3', 'no_parse'),
    ('(5 + 3', 'no_parse'),
    ('5 + 3)', 'no_parse'),
    ('1,23 + 5', 'no_parse'),
    ('1.2.3', 'no_parse'),
    ('7 // 2', 'no_parse'),
    ('8/2(2+2)', 'no_parse'),
    ('3 4', 'no_parse'),
    ('2 ^ 0.5', 'no_parse'),
    ('five', 'no_parse'),
    ("__import__('os').system('touch X')", 'no_parse'),
    ("open('X', 'w') + 1", 'no_parse'),
    ('9' * 5000, 'no_parse'),
    ('5 / 0', 'division_by_zero'),
    ('5 / (2 - 2)', 'division_by_zero'),
    ('0 ^ -1', 'division_by_zero'),
    ('9^9^9^9^9', 'too_large'),
    ('9^65', 'too_large'),
    ('((9^64)^64)^64', 'too_large'),
    ('(' * 40 + '1' + ')' * 40, 'too_large'),
    ('1+' * 5000 + '1', 'too_large'),
    ('2x + 4', 'symbolic'),
    ('12:30 - 1', 'symbolic'),
  ],
)
def test_problems_are_reported(text, problem):
  begin = time.process_time()
  evaluation = expressions.evaluate(text)
  assert (evaluation.value, evaluation.problem) == (None, problem)
  assert time.process_time() - begin < 1
  assert not os.path.exists('X')


def _tree(rng, depth):
  """Returns a random expression as text, and its value by Python.

  All operands are in parentheses, so that precedence does not matter.
  """
  if depth == 0 or rng.random() < 0.2:
    form = rng.randrange(4)
    if form == 0:
      n = rng.randrange(10_000_000) * rng.randrange(4)
      return f'{n:,}', Fraction(n)
    if form == 1:
      n, places = rng.randrange(100_000), rng.randrange(1, 4)
      return f'{n / 10**places:.{places}f}', Fraction(n, 10**places)
    if form == 2:
      n = rng.randrange(1, 300)
      return f'{n}%', Fraction(n, 100)
    n = rng.randrange(1, 100)
    return f'${n} {rng.choice(["apples", "kg", "miles"])}', Fraction(n)
  (a, x), (b, y) = _tree(rng, depth - 1), _tree(rng, depth - 1)
  sign = rng.choice('+-*/\u2212\u00d7\u00f7x^')
  blank = rng.choice(['', ' '])
  if sign == '^':
    n = rng.randrange(4)
    return f'({a}){blank}^{blank}{n}', None if x is None else x**n
  text = f'({a}){blank}{sign}{blank}({b})'
  if x is None or y is None or (sign in '/\u00f7' and not y):
    return text, None
  operate = {'+': '__add__', '*': '__mul__', '/': '__truediv__'}
  plain = {'\u2212': '-', '\u00d7': '*', '\u00f7': '/', 'x': '*'}.get(
    sign, sign
  )
  value = x - y if plain == '-' else getattr(x, operate[plain])(y)
  return text, value


def test_values_equal_pythons_fractions_on_random_trees():
  rng = random.Random(0)
  zero = 0
  for _ in range(3000):
    text, value = _tree(rng, rng.randrange(5))
    evaluation = expressions.evaluate(text)
    if value is None:
      assert evaluation.problem == 'division_by_zero', text
      zero += 1
    elif not evaluation.problem:
      assert evaluation.value == value, text
    else:
      bits = max(value.numerator.bit_length(), value.denominator.bit_length())
      assert evaluation.problem == 'too_large' and bits > 200, text
  assert zero > 3


def test_precedence_equals_pythons():
  rng = random.Random(1)
  for _ in range(2000):
    numbers = [rng.randrange(1, 30) for _ in range(rng.randrange(2, 7))]
    signs = [rng.choice('+-*/') for _ in numbers[1:]]
    text, oracle = str(numbers[0]), f'Fraction({numbers[0]})'
    for sign, n in zip(signs, numbers[1:], strict=True):
      text += f'{sign}{n}'
      oracle += f'{sign}Fraction({n})'
    expected = eval(oracle, {'Fraction': Fraction})  # Text made by this test.
    assert expressions.evaluate(text).value == expected, text


def test_random_text_neither_raises_nor_hangs():
  rng = random.Random(2)
  pieces = (
    *'0123456789.,:+-*/^()[]{}%$=x \n',
    *('\\frac', '\\boxed{', '**', '<<', '>>', ' of ', 'million', '\u00bd'),
    *('e', '####', '\u2212', '\u0663', '\u00b2', '\x00'),
  )
  begin = time.process_time()
  for _ in range(3000):
    expressions.evaluate(''.join(rng.choices(pieces, k=rng.randrange(60))))
  for piece in pieces:
    expressions.evaluate(piece * 20_000)
  assert time.process_time() - begin < 20
