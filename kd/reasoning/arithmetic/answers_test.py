"""Tests answer extraction on replies that are often parsed wrongly."""

import ast
import decimal
import fractions
import glob
import inspect
import math
import os
import random
import time

import pytest

from kd.reasoning.arithmetic import answers


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
    ('it is 3 1/2', '7/2'),
    ('#### 3 1/2 cups', '7/2'),
    ('#### -3 1/2', '-7/2'),
    ('#### 1\u00bd', '3/2'),
    ('It costs $1,234.50 in all', '2469/2'),
    (r'\boxed{72} since there are 5', '72'),
    (r'\boxed{5}, no: $\boxed{\text{about } \$1{,}234.50}$ for 3', '2469/2'),
    (r'\boxed{\frac{1}{2}}', '1/2'),
    (r'\boxed{-\frac{1}{2}}', '-1/2'),
    (r'\boxed{3\frac{1}{2}}', '7/2'),
    (r'\boxed{\mathbf{{15}\%}} of 7', '15'),
    (r'\boxed{12', '12'),
    (r'#### 8 after \boxed{9}', '8'),
    ('The answer is 8, since 3 + 5 is that and 1 is 1.', '8'),
    ('**Answer:** 8\nThat leaves 2.', '8'),
    ('Answer: $8 of 10', '8'),
    ('The answer is not 3 but 4', '4'),
    ('#### 30 m^2', '30'),
    ('#### 30m\u00b2', '30'),
    ('#### 25\nQuestion: A car costs $17,000?\n#### $17,000', '25'),
    (' 3+4=7 #### 7\nQ: 1+1=?\nA: #### 2', '7'),
  ],
)
def test_answers_are_extracted(text, value):
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
    '9' * 5000,
    r'it is 5: \boxed{x}',
    'the answer is 12:30, with 5 left',
    "__import__('os').system('touch X')",
  ],
)
def test_texts_without_an_answer_have_a_reason(text):
  answer = answers.extract(text)
  assert answer.value is None
  assert answer.reason


def test_answers_of_different_sign_differ():
  assert answers.exact_match('-3', '#### -3')
  assert answers.exact_match('#### \u22123', '#### -3')
  assert not answers.exact_match('3', '#### -3')
  assert not answers.exact_match('7 = 10-3', '#### -3')


def test_comparison_is_exact():
  assert answers.exact_match('0.3', '0.30')
  assert not answers.exact_match('29.5', '29')
  assert not answers.exact_match('0.30000000000000004', '0.3')
  assert not answers.exact_match('nothing', 'nothing either')


def test_replies_with_many_markers_are_counted():
  reply = '\n'.join(f'#### {i}' for i in range(10))
  assert answers.extract(reply).markers == 10
  replies = [answers.extract(x) for x in (reply, '#### 9', '#### ,')]
  out = answers.compare([answers.extract('#### 9')] * 3, replies)
  assert out == {'exact_match': 2 / 3, 'unparsed': 1.0, 'many_markers': 1.0}


@pytest.mark.parametrize(
  'question',
  [
    *('Question: 1+1?', 'Q: 1+1?', '  Question : 1+1?', 'question: 1+1?'),
    *('**Question:** 1+1?', '**Question**: 1+1?', '*Q:* 1+1?', '> Q: 1+1?'),
    *('Question 2: 1+1?', 'Question #2: 1+1?', '**Question 2:** 1+1?'),
    *('Question 2. 1+1?', 'Q2. 1+1?', 'Q2: 1+1?', 'Q 2) 1+1?', '__Q2:__ 1+1?'),
    *('Problem: 1+1?', 'Problem 3. 1+1?', '## Problem 3\n1+1?', '### Q: 1+1?'),
    *('Exercise 12: 1+1?', 'Next question: 1+1?', '- **Problem 4:** 1+1?'),
  ],
)
@pytest.mark.parametrize('end', ['\n', '\n\n', '\r\n'])
def test_replies_end_before_another_question(question, end):
  reply = f'7 + 1 = 8{end}'
  assert answers.without_follow_up(f'{reply}{question} 2\n#### 2') == reply
  assert answers.extract(f'{reply}{question}\n#### 2').value == 8
  assert answers.extract(f'#### 8{end}{question} It is \\boxed{{2}}').value == 8


@pytest.mark.parametrize(
  'line',
  [
    *('Questions: 3', 'Problem solved.', 'Problem', 'The Question: what?'),
    *('Quick: 3', 'Q', 'Question. 3', 'Problem 3 is hard', 'Problem 31 km:'),
  ],
)
def test_other_lines_do_not_end_a_reply(line):
  text = f'It is so.\n{line}\n#### 8'
  assert answers.without_follow_up(text) == text
  assert answers.without_follow_up('Question: 3?') == 'Question: 3?'


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


def test_written_numbers_are_read_back():
  rng = random.Random(1)
  for _ in range(2000):
    value = fractions.Fraction(rng.randrange(-9999, 9999), rng.randrange(1, 99))
    text = answers.to_text(value)
    assert answers.extract(f'#### {text}').value == value, text
  assert answers.to_text(fractions.Fraction(-1, 2)) == '-0.5'
  assert answers.to_text(fractions.Fraction(1, 3)) == '1/3'
  assert answers.to_text(fractions.Fraction(1200)) == '1200'


def test_a_reference_without_a_number_is_an_error():
  references = [answers.extract(x) for x in ('1', 'x')]
  with pytest.raises(ValueError, match='reference 1: no number'):
    answers.compare(references, references)


@pytest.mark.parametrize(
  'text',
  [
    '5' + 'a' * 200 + '/3',
    '5' + '-a' * 5000 + '!',
    '\n' * 20_000,
    'Q' + ' ' * 20_000,
    r'\boxed{' * 5000,
    'answer is ' * 5000,
    '1 ' * 20_000,
    '1,' * 20_000,
    '#### ' * 5000,
    '{' * 20_000,
  ],
)
def test_extraction_is_fast_for_hostile_texts(text):
  begin = time.process_time()
  answers.extract(text)
  assert time.process_time() - begin < 2


def test_extraction_of_random_text_does_not_raise():
  rng = random.Random(0)
  pieces = (
    *'0123456789.,:+-*/^()[]{}%$=x \n',
    *(r'\boxed{', r'\frac', '####', 'answer is', 'Q:', '\u2212', '\u00bd'),
    *('e', '\u0663', '\u00b2', '\ue000', '\x00'),
  )
  for _ in range(5000):
    text = ''.join(rng.choices(pieces, k=30))
    answer = answers.extract(text)
    assert (answer.value is None) == bool(answer.reason), text


def test_private_use_characters_are_not_interpreted():
  """Tests private-use characters, some of which the reader uses as marks."""
  for code in (*range(0xE000, 0xE010), 0xE123, 0xF8FF, 0xF0000, 0x10FFFD):
    for text in ('3{}1/2', '3{}1/2 hours', '12{}000', '4{}'):
      text = text.format(chr(code))
      assert answers.extract(f'#### {text}').value is None, (hex(code), text)


def test_no_code_of_the_package_executes_text():
  """Tests that no file of the package executes text."""
  folder = os.path.dirname(os.path.dirname(inspect.getsourcefile(answers)))
  files = [
    f
    for f in glob.glob(f'{folder}/**/*.py', recursive=True)
    if not f.endswith('_test.py')
  ]
  assert len(files) > 20
  for file in files:
    with open(file, encoding='utf-8') as f:
      tree = ast.parse(f.read())
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    called = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert not names & {'eval', 'exec', 'compile', '__import__'}, file
    parsers = {'literal_eval', 'sympify', 'parse_expr'}
    assert not (names | called) & parsers, file
