r"""Extracts and compares final answers of worked solutions (GSM8K's '#### N').

Rewards, filters, votes and evaluation all use these rules:

- A reply ends at a later line that starts another question: 'Question:',
  '**Question 2:**', 'Q:', 'Problem 3.'.
- If the reply has '####', the answer is the first number on the line after the
  last '####'. Otherwise it is the number in the last \boxed{}, else the number
  directly after the last 'answer is' or 'answer:', else the last number after
  these words, or the last number of a reply without them.
- If the answer is arithmetic with a result, it is the result: '6 * 3 = 18' is
  18.
- A number may have a sign, thousands in groups of three (separated by commas,
  apostrophes, underscores, thin, no-break or LaTeX spaces, or by spaces if this
  is unambiguous), decimals, a currency sign, a unit ('29 dollars', '5km'), and
  punctuation and Markdown around it. '3/4' is a fraction and '3 1/2' a mixed
  number, also in LaTeX. Digits of all scripts are supported.
- A percent sign is a unit: '29%' is 29, because GSM8K writes the answer to
  "what percent" without it.
- A number is read as a whole or not at all. If another word with digits
  ('12:30', '1,23', '1e9', '10-3', '9**9', '2 hours 30 minutes', '5 million',
  more than 40 digits) is in the place of the answer, the reply is unparsed. So
  is a box with two numbers.
- A reply of more than notation.MAX_CHARS characters is unparsed.

Nothing is evaluated, values are exact fractions, and the time is linear in the
length of the reply. numerals.py reads the numbers.
"""

from collections.abc import Sequence
import dataclasses
import fractions
import re

from kd.metrics import metric
from kd.reasoning.arithmetic import notation
from kd.reasoning.arithmetic import numerals

MARKER = '####'

_NEXT_QUESTION = re.compile(
  r"""
    (?<=\n)[ \t]*+[*_#>-]*+[ \t]*+[*_]*+
    (?:
      (?:(?:Next|New|Another)[ ])?(?i:Question|Problem|Exercise)|Q
    )
    (?:
      [*_]*[ \t]?:
      | [ \t]?\#?[0-9]{1,4}[*_]*[ \t]?(?:[:.)]|[*_]*[ \t]*$)
    )
    """,
  re.VERBOSE | re.MULTILINE,
)
_BOXED = re.compile(r'\\f?boxed\s?\{')
_ANSWER_IS = re.compile(r'(?i)\banswer(?:\s?is\s?:?|\s?:|\s?=)')
_CALCULATOR = re.compile(r'<<[^<>]*>>')


@dataclasses.dataclass(frozen=True)
class Answer:
  """The final answer of a reply.

  Attributes:
    value: the number; None if it cannot be read.
    reason: why there is no number; '' if there is one.
    markers: number of '####' in the reply; more than one is suspicious.
  """

  value: fractions.Fraction | None
  reason: str
  markers: int


def extract(text: str) -> Answer:
  """Extracts the final answer of a reply by the rules above; never raises."""
  if len(text) > notation.MAX_CHARS:
    return Answer(None, f'longer than {notation.MAX_CHARS:,} characters', 0)
  text = without_follow_up(text)
  markers = text.count(MARKER)
  if markers:
    lines = text.rpartition(MARKER)[2].strip().splitlines()
    number = None
    if lines:
      number = _stated(lines[0], numerals.Numerals(lines[0]))
    missing = f'no number after the last {MARKER}'
  else:
    number, missing = _without_marker(text)
  if number is None:
    return Answer(None, missing, markers)
  is_clear = number.value is not None
  reason = '' if is_clear else f'{number.text[:60]!r} is not clearly one number'
  return Answer(number.value, reason, markers)


def without_follow_up(text: str) -> str:
  """Returns the reply without a following question that it invents."""
  match = _NEXT_QUESTION.search(text)
  return text[: match.start()] if match else text


def announces_answer(line: str) -> bool:
  """Returns whether a line contains 'answer is' or 'answer:'."""
  return bool(_ANSWER_IS.search(line))


def _without_marker(text: str) -> tuple[numerals.Number | None, str]:
  """Returns the answer of a reply without '####', or why there is none."""
  boxed = _last_boxed(text)
  if boxed is not None:
    return _only(boxed), 'no number in the last box'
  begin = None
  for match in _ANSWER_IS.finditer(text):
    begin = match.end()
  if begin is not None:
    line = text[begin:].partition('\n')[0]
    numbers = numerals.Numerals(line)
    if numbers.begins_with_number:
      return _stated(line, numbers), ''
    if numbers.begins_with_sign and len(numbers):
      return numerals.Number(None, line.strip(), False), ''
  numbers = numerals.Numerals(text if begin is None else text[begin:])
  return (numbers.read(-1, False) if len(numbers) else None), 'no number'


def _stated(line: str, numbers: numerals.Numerals) -> numerals.Number | None:
  """Returns the number that a line states, or the result of its arithmetic.

  Args:
    line: the line.
    numbers: the numbers of the line; it states the first one.
  """
  if not len(numbers):
    return None
  number = numbers.read(0, True)
  if number.computed:
    return _result(line) or number
  if number.value is not None and numbers.is_equated(0):
    other = _only(line.partition('=')[2])
    if other and other.value not in (None, number.value):
      return number._replace(value=None)
  return number


def _only(text: str) -> numerals.Number | None:
  """Returns the only number of a text, or the result of its arithmetic."""
  numbers = numerals.Numerals(text)
  if not len(numbers):
    return None
  number = numbers.read(0, True)
  if len(numbers) == 1:
    return number
  result = _result(text) if number.computed else None
  return result or numerals.Number(None, text.strip(), number.computed)


def _result(line: str) -> numerals.Number | None:
  """Returns the number after the equals sign of a line with only one."""
  _, sign, right = line.partition('=')
  numbers = numerals.Numerals(right)
  if not sign or '=' in right or len(numbers) != 1:
    return None
  return numbers.read(0, True)


def _last_boxed(text: str) -> str | None:
  r"""Returns the content of the last \boxed{...}, which may be unclosed."""
  begin = None
  for match in _BOXED.finditer(text):
    begin = match.end()
  if begin is None:
    return None
  depth = 1
  for match in re.compile('[{}]').finditer(text, begin):
    depth += 1 if match.group() == '{' else -1
    if not depth:
      return text[begin : match.start()]
  return text[begin:]


def without_marks(text: str) -> str:
  """Returns a solution without GSM8K's calculator marks, <<48/2=24>>."""
  return _CALCULATOR.sub('', text)


def to_text(value: fractions.Fraction) -> str:
  """Returns a number as text that `extract` reads back: '24', '-0.5', '1/3'."""
  digits = 0
  while digits < 10 and (value * 10**digits).denominator != 1:
    digits += 1
  scaled = value * 10**digits
  if scaled.denominator != 1 or not digits:
    return str(value)
  text = str(abs(scaled.numerator)).zfill(digits + 1)
  sign = '-' if value < 0 else ''
  return f'{sign}{text[:-digits]}.{text[-digits:]}'


def exact_match(prediction: str, reference: str) -> bool:
  """Returns whether two texts have the same answer; False without a number."""
  return _equal(extract(prediction), extract(reference))


def _equal(prediction: Answer, reference: Answer) -> bool:
  return prediction.value is not None and prediction.value == reference.value


def compare(
  references: Sequence[Answer], predictions: Sequence[Answer]
) -> dict[str, float]:
  """Scores extracted answers; the argument order is that of seqio.

  Args:
    references: the reference answers.
    predictions: the answers to score, one for each reference.

  Returns:
    exact_match: fraction of right answers, from 0 to 1 (NaN if there are none).
    unparsed: number of replies without a readable answer; they count as wrong.
    many_markers: number of replies with more than one '####'.
    Each value is a metric.Metric, which is a float.

  Raises:
    ValueError: the lengths differ, or a reference has no number.
  """
  if len(predictions) != len(references):
    raise ValueError(
      f'{len(predictions)} predictions for {len(references)} references'
    )
  for i, reference in enumerate(references):
    if reference.value is None:
      raise ValueError(f'reference {i}: {reference.reason}')
  rare = dict(unit='count', higher_is_better=False, total=True, diagnostic=True)
  return {
    'exact_match': metric.Metric(
      [*map(_equal, predictions, references)], title='exact match'
    ),
    'unparsed': metric.Metric(
      [p.value is None for p in predictions],
      title='answers without a number',
      **rare,
    ),
    'many_markers': metric.Metric(
      [p.markers > 1 for p in predictions],
      title='answers with several marks',
      **rare,
    ),
  }
