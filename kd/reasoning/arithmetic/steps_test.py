"""Tests the statements of worked solutions and their verdicts."""

import json
import os
import random
import time

import pytest

from kd.reasoning.arithmetic import steps


def _kinds(text):
  return [step.kind for step in steps.check(text)]


@pytest.mark.parametrize(
  'text, kinds',
  [
    ('She sold 48/2 = <<48/2=24>>24 clips.', 'right right'),
    ('<<48/2=25>>25', 'wrong'),
    ('So 5 apples * 3 dollars = 15 dollars, as 3 + 4 = 8.', 'right wrong'),
    ('2 + 3 = 5 = 10 / 2 = 6', 'right right wrong'),
    ('3*4 = 12 = 13', 'right wrong'),
    ('300 minutes / 5 = 60 minutes = 1 hour', 'right'),
    ('1 hour = 60 minutes', ''),
    ('x = 5 * 3 = 15', 'right'),
    ('The total for 2 boxes = 2 * 10 = 20.', 'right'),
    ('7 = 3 + 4', 'right'),
    ('- 5 * 3 = 15', 'right'),
    ('2. 5 * 3 = 16', 'wrong'),
    ('-5 + 3 = -2', 'right'),
    ('a loss of -4 * 2 = \u22128', 'right'),
    ('**5 * 3 = 15**, and **2 ** 3 = 8**', 'right right'),
    (r'\(5 \times 3 = 15\) and \(\frac{1}{2} \cdot 8 = 5\)', 'right wrong'),
    ('5 times 3 equals 15', 'right'),
    ('100/3 = 33.33', 'rounded'),
    ('200/3 = 66.66', 'wrong'),
    ('200/3 \u2248 67', 'rounded'),
    ('25/2 = 13 and 25/2 = 12', 'rounded wrong'),
    ('7/2 = 4', 'wrong'),
    ('1/3 = 0.3', 'wrong'),
    ('1/300 = 0.00', 'wrong'),
    ('-25/2 = -13', 'rounded'),
    ('20/80 = 25%', 'right'),
    ('20/80*100 = 25%', 'right'),
    ('200 * 5% = 1000', 'wrong'),
    ('100% - 20% = 80% of the class', 'right'),
    ('3 * 2 = 6 million', 'right'),
    ('3 million * 2 = 6,000,000', 'right'),
    ('17/3 = 5 and 2/3', 'right'),
    ('5 / 0 = 0', 'division_by_zero'),
    ('<<5/0=0>>', 'division_by_zero'),
    ('<<5+=5>>', 'no_parse'),
    ('<<5>>', 'no_parse'),
    ('5 * = 40', 'no_parse'),
    ('45 * 0,2 = 9', 'no_parse'),
    ('5 + 3 =', 'no_parse'),
    ('9^9^9 = 3', 'too_large'),
    ('1' + '+1' * 49 + ' = 50', 'right'),
    ('1' + '+1' * 99 + ' = 100', 'too_large'),
    ('100 = 1' + '+1' * 99, 'too_large'),
    ('2x + 4 = 10', 'symbolic'),
    ('cost + 5 * 2 = 9', 'symbolic'),
    ('f(2) = 2 * 3 = 6', 'right'),
    ('17:00 - 7:00 = 10', 'symbolic'),
    ('5 * 3 = fifteen', 'symbolic'),
    ('1/2 of the 30 = 15', ''),
    ('(6+3)*4/2 = 24', 'wrong'),
    ('24 = 24', ''),
    ('=24', ''),
    ('no arithmetic', ''),
    ('', ''),
    ("__import__('os').system('touch X') = 3 + 4", ''),
  ],
)
def test_verdicts(text, kinds):
  assert _kinds(text) == kinds.split()
  assert not os.path.exists('X')


def test_steps_contain_the_expected_value():
  (step,) = steps.check('so 2 + 2 = 5 apples')
  assert (step.text, step.expected, step.is_mark) == ('2 + 2 = 5', 4, False)


def test_generated_statements_in_prose():
  """Tests sentences with generated numbers, right and wrong."""
  rng = random.Random(0)
  for _ in range(2000):
    a, b, c = (rng.randrange(2, 1000) for _ in range(3))
    sign, value = rng.choice(
      [('+', a + b), ('-', a - b), ('*', a * b), ('x', a * b)]
    )
    wrong = rng.random() < 0.5
    shown = value + (c if wrong else 0)
    unit = rng.choice(['', ' apples', '%', ' dollars per day'])
    text = rng.choice(
      [
        f'Tom had {c} friends and {a} {sign} {b} = {shown:,}{unit}.',
        f'In all, ${a:,}{sign}${b} = ${shown}, which is fine.',
        f'Step {c}: {a} eggs {sign} {b} eggs = {shown} eggs in week {c}',
        f'He makes {a}{sign}{b}=<<{a}{sign.replace("x", "*")}{b}={shown}>>'
        f'{shown}{unit} a day.',
      ]
    )
    expected = 'wrong' if wrong else 'right'
    assert set(_kinds(text)) == {expected}, text


def test_worked_solutions_of_gsm8k():
  path = os.path.join(os.environ.get('KD_DATA_DIR', ''), 'gsm8k/train.jsonl')
  if not os.path.isfile(path):
    pytest.skip('KD_DATA_DIR holds no gsm8k/train.jsonl')
  marks, prose = {}, {}
  with open(path, encoding='utf-8') as f:
    for line in f:
      for step in steps.check(json.loads(line)['answer']):
        counts = marks if step.is_mark else prose
        counts[step.kind] = counts.get(step.kind, 0) + 1
  # GSM8K made its marks with a calculator; two hold '//'.
  assert marks == {'right': 23714, 'no_parse': 2}
  checked = sum(prose.values()) - prose['symbolic']
  assert checked > 24_400
  assert (prose['right'] + prose['rounded']) / checked > 0.995


def test_random_text_neither_raises_nor_hangs():
  rng = random.Random(0)
  pieces = (
    *'0123456789.,:+-*/^()[]{}%$=<>x ',
    *('=', '=', '\n', '<<', '>>', '**', ' of ', ' each', '\\frac{'),
  )
  begin = time.process_time()
  for _ in range(1500):
    for step in steps.check(''.join(rng.choices(pieces, k=80))):
      assert step.kind in steps.KINDS
  for piece in (*pieces, '1+', '(1', '<<1=', '1 a ', '- 1', '=1'):
    steps.check(piece * 8000)
  assert time.process_time() - begin < 30
