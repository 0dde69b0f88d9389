"""Tests forms of numbers: each is read exactly, or the reply is unparsed."""

import fractions
import random

import pytest

from kd.reasoning.arithmetic import answers

# Replies, and the number that a person would read; None if it is ambiguous.
FORMS = [
  # Thousands.
  ('#### 12,000', '12000'),
  (r'#### 12\,000', '12000'),
  (r'#### 12\:000', '12000'),
  (r'#### 12\;000', '12000'),
  (r'#### 12\ 000', '12000'),
  ('#### 12 000', '12000'),
  ('#### 12 345', '12345'),
  ('#### $12 345', '12345'),
  ('#### 12 345 dollars', '12345'),
  ('#### 12\u00a0000', '12000'),
  ('#### 12\u2009345', '12345'),
  ('#### 12\u202f345', '12345'),
  ('#### 1\u202f234\u202f567', '1234567'),
  ("#### 1'234'567", '1234567'),
  ('#### 1\u2019234\u2019567', '1234567'),
  ('#### 1_234_567', '1234567'),
  ('#### 12{,}000', '12000'),
  (r'#### 12{\,}000', '12000'),
  (r'#### 12,\!000', '12000'),
  (r'#### 12\,345.50', '24691/2'),
  (r'#### -12\,345', '-12345'),
  (r'\boxed{12\,000}', '12000'),
  (r'\boxed{12\,345\text{ m}}', '12345'),
  (r'\boxed{\$12{,}345}', '12345'),
  (r'\boxed{12 345}', '12345'),
  (r'It makes 1\,234', '1234'),
  ('It makes 12 000', '12000'),
  ('It makes 1 234 000 in all', '1234000'),
  ('It makes 12 345', None),
  ('rows 3 400', None),
  ('#### 12 34', None),
  (r'#### 12\,00', None),
  (r'#### 1\,2345', None),
  ('#### 12\u202f0000', None),
  ("#### 5'10", None),
  ('#### 12_00', None),
  ("#### 1,234'567", None),
  (r'#### 1,234\,567', None),
  ('#### 1,234 567', None),
  ('#### 12,34,567', None),
  ('#### 12 34 567', None),
  ('#### 1.234.567', None),
  ('#### 1.234,56', None),
  ('#### 1 234,56', None),
  ('#### 0,500', None),
  ('#### 000', None),
  ('It weighs 12\t000', None),
  ('It weighs 1,23', None),
  # Dollars, units, percent.
  ('The answer is: $$18$$', '18'),
  ('The answer is $18$.', '18'),
  (r'The answer is: \$\$18\$\$', '18'),
  (r'The answer is \(18\)', '18'),
  (r'\[ \boxed{18} \]', '18'),
  (r'\boxed{\$18}', '18'),
  (r'\boxed{5\ \text{cm}^2}', '5'),
  (r'\boxed{5 \text{ cm}^{2}}', '5'),
  (r'\boxed{5\,\mathrm{m/s}^2}', '5'),
  (r'\boxed{45^\circ}', '45'),
  (r'\boxed{45^{\circ}}', '45'),
  (r'\boxed{29\%}', '29'),
  (r'\boxed{\textbf{18}}', '18'),
  (r'\boxed{\text{18 apples}}', '18'),
  (r'\boxed{x = 18}', '18'),
  ('#### 18 m\u00b2', '18'),
  ('#### 18 %', '18'),
  ('#### \u20ac18', '18'),
  ('#### 18\u20ac', '18'),
  ('#### \u00a318.50', '37/2'),
  ('#### \u20b918', '18'),
  ('#### 18\u00a2', '18'),
  ('#### $18/hour', '18'),
  ('#### 18 miles/hour', '18'),
  ('#### 60km/h', '60'),
  ('#### 18\u00b0C', '18'),
  ('#### 18-dollar bills', '18'),
  ('#### 3 million', None),
  ('#### $1.5 million.', None),
  ('#### 2 thousand dollars', None),
  ('#### 5million', None),
  ('#### minus 5', '-5'),
  ('it is negative 5', '-5'),
  ('it is minus 5', '-5'),
  ('his size minus 5', None),
  ('He was 27. In 5 years', '5'),
  ('It starts at 0730', '730'),
  # Other scripts.
  ('#### 18\u3002', '18'),
  ('\u7b54\u6848\u662f18\u3002', None),
  ('\u7b54\u6848\u662f \uff11\uff18\u3002', '18'),
  ('#### \uff11\uff18', '18'),
  ('#### \uff11\uff12\uff0c\uff10\uff10\uff10', '12000'),
  ('#### \uff11\uff0e\uff15', '3/2'),
  ('#### \uff04\uff11\uff18', '18'),
  ('#### 18\uff0c', '18'),
  ('#### \u300c18\u300d', '18'),
  ('#### \uff0818\uff09', '18'),
  ('#### 18\u5143', '18'),
  ('#### 3\u4e07', None),
  ('#### \u0661\u0668', '18'),
  ('#### 1\u200b8', '18'),
  ('#### 5\u2460', None),
  # Fractions.
  (r'\boxed{\dfrac{3}{4}}', '3/4'),
  (r'\boxed{\tfrac34}', '3/4'),
  (r'\boxed{\frac3{4}}', '3/4'),
  (r'\boxed{\frac{-3}{4}}', '-3/4'),
  (r'\boxed{-\dfrac{3}{4}}', '-3/4'),
  (r'\boxed{2\dfrac{3}{4}}', '11/4'),
  ('#### 2 and 3/4', '11/4'),
  ('#### 2 \u00be', '11/4'),
  ('#### 3\u20444', '3/4'),
  ('#### 1,000 1/2', '2001/2'),
  ('#### 3 7/2', None),
  ('#### 5 and a half', None),
  (r'\boxed{\frac{1.5}{2}}', None),
  (r'\boxed{\frac{x}{2}}', None),
  # Markdown and punctuation.
  ('#### **18**', '18'),
  ('**#### 18**', '18'),
  ('#### *18*.', '18'),
  ('#### __18__', '18'),
  ('#### `18`', '18'),
  ('#### ~18', '18'),
  ('The answer is **18 dollars**.', '18'),
  ('**Final Answer: 18**', '18'),
  ('- 5 apples\n- 18 pears', '18'),
  ('* 18 pears', '18'),
  ('| Total | 18 |', '18'),
  ('#### 18.', '18'),
  ('#### 18...', '18'),
  ('#### 18\u2026', '18'),
  ('#### 18!', '18'),
  ('#### \u201c18\u201d', '18'),
  ('The answer is: 18.', '18'),
  ('Total - 18', '18'),
  # Arithmetic.
  ('#### 6 * 3 = 18', '18'),
  ('#### 6*3=18', '18'),
  (r'#### 6 \times 3 = 18', '18'),
  ('#### 18 = 6 * 3', '18'),
  ('#### x = 18', '18'),
  (r'\boxed{6 + 12 = 18}', '18'),
  ('so 20 - 2 = 18', '18'),
  ('The answer is 6 x 3 = 18', '18'),
  ('9**9**9**9', None),
  ('#### 9**9**9**9', None),
  (r'\boxed{9^{9^{9^{9}}}}', None),
  ('The answer is 9**9**9**9.', None),
  ('#### 6 * 3', None),
  ('6 * 3', None),
  ('it is 6 x 3', None),
  ('20 = 6 * 3', None),
  ('#### 10 - 3', None),
  ('10 \u2013 3', None),
  ('5 apples + 3 apples', None),
  ('#### 2(3)', None),
  ('(2)(3)', None),
  ('#### 2^10', None),
  (r'\boxed{2^{10}}', None),
  ('#### 10\u2075', None),
  ('10 ^ 5', None),
  ('#### 1.5 x 10^6', None),
  (r'\boxed{1.5 \times 10^6}', None),
  ('#### 3 / 4 = 0.75', '3/4'),
  ('12 divided by 3', None),
  ('#### 2 plus 3', None),
  ('#### 1 hour = 60 minutes', None),
  ('#### 1.5e6', None),
  # A part of something else.
  (r'\boxed{\sqrt{16}}', None),
  (r'\boxed{2\sqrt{3}}', None),
  (r'\boxed{2\pi}', None),
  ('#### 2\u03c0', None),
  ('#### \u221a16', None),
  (r'\boxed{\binom{5}{2}}', None),
  (r'0.\overline{3}', None),
  (r'\boxed{101_2}', None),
  (r'\boxed{101_{2}}', None),
  ('#### |-5|', None),
  ('#### f(2)', None),
  ('#### \u00b1 5', None),
  ('#### 5x', None),
  (r'\boxed{5xy}', None),
  ('#### 5k', None),
  ('#### $3m', None),
  ('#### 5bn', None),
  ('#### 2 hours 30 minutes', None),
  ('It takes 2 hours and 30 minutes', None),
  ('It takes 2h 30min', None),
  ('#### 5\' 10"', None),
  ('#### $5 and 30 cents', None),
  # Which one?
  ('#### 5 or 6', None),
  ('it is 5 or 6', None),
  ('#### 5 to 10', None),
  ('#### 5-10', None),
  ('#### 5~10', None),
  ('#### 5\u201310', None),
  ('#### 5\u201410', None),
  ('#### 3 : 4', None),
  ('#### 5, 6', None),
  ('#### - 5', None),
  (r'\boxed{(1, 2)}', None),
  (r'\boxed{x=5, y=6}', None),
  (r'\boxed{10 apples and 5 pears}', None),
  ('There are 5 apples. The answer is three.', None),
  ('The answer is - 5', None),
]


@pytest.mark.parametrize('text, value', FORMS)
def test_numerals_in_each_form(text, value):
  answer = answers.extract(text)
  assert answer.value == (value and fractions.Fraction(value)), answer
  assert (answer.value is None) == bool(answer.reason)


# Separators of thousands.
_SEPARATORS = (
  *('', ',', '\u00a0', '\u2009', '\u202f', '\u2007', '\u200a', "'", '\u2019'),
  *('_', r'\,', r'\:', r'\;', '{,}', r'{\,}', r',\!', ' ', r'\ ', '\u200b'),
  *('~', '\u2032', '\u2002', '\t', '\u3000', '\n', '\uff0c', '|', ':', '*'),
  *('.', '-', '/', '+', ';', ', ', r'\quad ', '\u2060', '\u2212'),
)
_SURE = 18  # The first of them are read in most places.
# Separators that also occur between two numbers; then one of them is read.
_BLANKS = (' ', r'\ ', '\u2002', '\t', '\u3000', '\n', ';', ', ', r'\quad ')
# These also mean a decimal point or a fraction.
_AMBIGUOUS = (*_BLANKS, '.', '/')
# What surrounds the number.
_AROUND = (
  *('#### {}', 'The answer is {}.', r'\boxed{{{}}}', 'It is {}', '{}'),
  *('#### ${} each', '#### {}%', '**Answer:** {} m^2', '$${}$$', '*{}*'),
  *('The 7 of us have {} apples.', 'a 5, a 77 and a {}!', '= {}'),
)


def _written(rng, whole, decimals, separator):
  """Returns the digits in groups of three, or sometimes of other sizes."""
  size = 3 if rng.random() < 0.8 else rng.choice((2, 4))
  digits, groups = str(whole), []
  while digits:
    digits, group = digits[:-size], digits[-size:]
    groups.insert(0, group)
  return separator.join(groups) + (f'.{decimals}' if decimals else '')


def test_numbers_are_read_exactly_or_rejected():
  rng = random.Random(0)
  right = dict.fromkeys(_SEPARATORS, 0)
  for _ in range(10_000):
    whole = rng.randrange(10 ** rng.randrange(1, 11))
    decimals = rng.choice(('', '', '5', '25', '125'))
    separator = rng.choice(_SEPARATORS)
    number = _written(rng, whole, decimals, separator)
    sign = rng.choice(('', '', '-', '\u2212'))
    text = rng.choice(_AROUND).format(sign + number)
    value = answers.extract(text).value
    expected = fractions.Fraction(f'{whole}.{decimals or 0}')
    if value == (-expected if sign else expected):
      right[separator] += 1
    elif value is not None:
      # Only separators that also occur between numbers or have a meaning.
      assert separator in number and separator in _AMBIGUOUS, text
      assert separator not in _BLANKS or _is_last(value, number, separator)
  for separator in _SEPARATORS[:_SURE]:
    assert right[separator] > 100, (separator, right)


def _is_last(value, number, separator):
  """Returns whether a value is one of several separated numbers."""
  parts = number.split(separator)
  return str(abs(value)) in [str(fractions.Fraction(p)) for p in parts]
