"""Reading answers: cases L1 to L8 of what others got wrong."""

import ast
import decimal
import fractions
import inspect
import math
import random

import pytest

from kd.evaluation import answers


@pytest.mark.parametrize(
  'text, value',
  [
    ('The total is 72, altogether.', '72'),
    ('She has 72.', '72'),
    ('#### 72', '72'),
    ('####72', '72'),
    ('####\n72\nmore 5', '72'),
    ('#### -3', '-3'),
    ('#### \u22123', '-3'),
    ('#### -$3', '-3'),
    ('#### $-3', '-3'),
    ('$29.00', '29'),
    ('29.', '29'),
    ('29.0', '29'),
    ('#### 29 dollars', '29'),
    ('#### $29.00.', '29'),
    ('#### 29%', '29'),
    ('#### US$1,250', '1250'),
    ('#### .5', '1/2'),
    ('0.30', '3/10'),
    ('rows 3 4', '4'),
    ('it is 3/4', '3/4'),
    ('100,000', '100000'),
    ('#### 16,800,000', '16800000'),
    (r'so \boxed{72}', '72'),
    ('**72**', '72'),
    ('5*4=20', '20'),
    ('#### 5km', '5'),
    ('#### 5 ... wait ... #### 7', '7'),
    ('a Question in mid-sentence. #### 8', '8'),
    ('#### 8\n\nQuestion: what is 2+2?\n#### 4', '8'),
    (' 3+4=7 #### 7\nQ: 1+1=?\nA: #### 2', '7'),
  ],
)
def test_reads(text, value):
  assert answers.extract(text).value == fractions.Fraction(value)


@pytest.mark.parametrize(
  'text',
  [
    '',
    'no idea',
    '#### ,',
    '####',
    '12:30',
    '1,23',
    '1e9',
    'the answer is 10-3.',
    '#### 3/0',
    '#### 1.2.3',
    '#### --3',
    '3,4,5',
    "__import__('os').system('touch X')",
  ],
)
def test_never_guesses(text):
  answer = answers.extract(text)
  assert answer.value is None
  assert answer.reason


def test_sign_decides():
  assert answers.exact_match('-3', '#### -3')
  assert answers.exact_match('#### \u22123', '#### -3')
  assert not answers.exact_match('3', '#### -3')
  assert not answers.exact_match('7 = 10-3', '#### -3')


def test_comparison_is_exact():
  assert answers.exact_match('0.3', '0.30')
  assert not answers.exact_match('29.5', '29')
  assert not answers.exact_match('0.30000000000000004', '0.3')
  assert not answers.exact_match('nothing', 'nothing either')


def test_ten_markers_are_flagged():
  reply = '\n'.join(f'#### {i}' for i in range(10))
  assert answers.extract(reply).markers == 10
  out = answers.score([reply, '#### 9', '#### ,'], ['#### 9'] * 3)
  assert out == {'exact_match': 2 / 3, 'unparsed': 1.0, 'many_markers': 1.0}


def test_numbers_round_trip_in_every_format():
  rng = random.Random(0)
  forms = [
    '{}',
    '#### {}',
    '${}',
    '{} dollars',
    'It is {}.',
    '{}%',
    '{},',
    'a 5 and a {}!',
    '({})',
    '= {}',
  ]
  for _ in range(2000):
    places = rng.randrange(4)
    number = decimal.Decimal(
      round(math.exp(rng.uniform(math.log(1e-3), math.log(1e9))), places)
    )
    number = round(number, places) * rng.choice([1, -1])
    for form in forms:
      for written in (f'{number}', f'{number:,}'):
        read = answers.extract(form.format(written)).value
        assert read == fractions.Fraction(number), form.format(written)


def test_a_reference_without_a_number_is_an_error():
  with pytest.raises(ValueError, match='reference 1: no number'):
    answers.score(['1', '2'], ['1', 'x'])


def test_nothing_is_evaluated():
  tree = ast.parse(inspect.getsource(answers))
  names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
  assert not names & {'eval', 'exec', 'compile'}
