r"""Final answers of worked solutions (GSM8K's '#### N'): reading and comparing.

Rewards, filters, votes and evaluation all use this one reader. Its rules:

- A reply ends at a later line that begins another question: 'Question:',
  '**Question 2:**', 'Q:', 'Problem 3.'.
- With '####' in the reply, the answer is the first number on the line that
  follows the last '####'. Without, it is the number in the last \boxed{}, else
  the number directly behind the last 'answer is' or 'answer:', else the last
  number behind that, or of a reply without these words.
- Of arithmetic with its result, the answer is the result: '6 * 3 = 18' is 18.
- A number may have a sign, thousands in groups of three (separated by commas,
  apostrophes, underscores, thin or no-break spaces and LaTeX's ones; by blanks
  where nothing else can be meant), decimals, a currency sign, a unit ('29
  dollars', '5km'), and punctuation and Markdown around it. '3/4' is the
  fraction, '3 1/2' the mixed number, and so are their LaTeX forms. Digits of
  all scripts are read.
- A percent sign is a unit like any other: '29%' is 29, since GSM8K writes the
  answer to "what percent" without it.
- A number is read as a whole or not at all: what has digits and is none of
  these ('12:30', '1,23', '1e9', '10-3', '9**9', '2 hours 30 minutes', '5
  million', more than 40 digits) makes the reply unparsed where the answer
  should stand. So do two numbers in a box.
- A reply of more than notation.LONGEST characters is unparsed.

Nothing is evaluated, no float is made (values are exact fractions), and time is
linear in the reply's length. numerals.py reads the numbers.
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
  """What a reply answers.

  Attributes:
    value: the number, None where there is none to read.
    reason: why there is none, '' otherwise.
    markers: how often '####' stands in the reply; more than one is suspicious.
  """

  value: fractions.Fraction | None
  reason: str
  markers: int


def extract(text: str) -> Answer:
  """Reads the final answer of a reply, by the rules above; never raises."""
  if len(text) > notation.LONGEST:
    return Answer(None, f'longer than {notation.LONGEST:,} characters', 0)
  text = own_part(text)
  markers = text.count(MARKER)
  if markers:
    lines = text.rpartition(MARKER)[2].strip().splitlines()
    number = None
    if lines:
      number = _named(lines[0], numerals.Numerals(lines[0]))
    missing = f'no number behind the last {MARKER}'
  else:
    number, missing = _without_marker(text)
  if number is None:
    return Answer(None, missing, markers)
  sure = number.value is not None
  reason = '' if sure else f'{number.text[:60]!r} is not surely one number'
  return Answer(number.value, reason, markers)


def own_part(text: str) -> str:
  """Returns the reply without a question that it goes on to ask itself."""
  match = _NEXT_QUESTION.search(text)
  return text[: match.start()] if match else text


def names_answer(line: str) -> bool:
  """Returns whether a line says 'answer is' or 'answer:'."""
  return bool(_ANSWER_IS.search(line))


def _without_marker(text: str) -> tuple[numerals.Number | None, str]:
  """The number that answers a reply without '####', or why there is none."""
  boxed = _last_boxed(text)
  if boxed is not None:
    return _only(boxed), 'no number in the last box'
  begin = None
  for match in _ANSWER_IS.finditer(text):
    begin = match.end()
  if begin is not None:
    line = text[begin:].partition('\n')[0]
    behind = numerals.Numerals(line)
    if behind.begins_with_number:
      return _named(line, behind), ''
    if behind.begins_with_sign and len(behind):
      return numerals.Number(None, line.strip(), False), ''
  told = numerals.Numerals(text if begin is None else text[begin:])
  return (told.read(-1, False) if len(told) else None), 'no number'


def _named(line: str, numbers: numerals.Numerals) -> numerals.Number | None:
  """Returns the number that a line names, or what it is computed to be.

  Args:
    line: the line.
    numbers: of the line; the first one is what it names.
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
  """Returns the one number of a text, or what it is computed to be."""
  found = numerals.Numerals(text)
  if not len(found):
    return None
  number = found.read(0, True)
  if len(found) == 1:
    return number
  result = _result(text) if number.computed else None
  return result or numerals.Number(None, text.strip(), number.computed)


def _result(line: str) -> numerals.Number | None:
  """The number behind the equals sign of a line that has one of them."""
  _, sign, right = line.partition('=')
  found = numerals.Numerals(right)
  if not sign or '=' in right or len(found) != 1:
    return None
  return found.read(0, True)


def _last_boxed(text: str) -> str | None:
  r"""What the last \boxed{...} holds; to the end where it is never closed."""
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


def write(value: fractions.Fraction) -> str:
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
  """Whether two texts give the same number; texts without one never match."""
  return _equal(extract(prediction), extract(reference))


def _equal(prediction: Answer, reference: Answer) -> bool:
  return prediction.value is not None and prediction.value == reference.value


def compare(
  references: Sequence[Answer], predictions: Sequence[Answer]
) -> dict[str, float]:
  """Scores answers that were read already; the order is seqio's.

  Args:
    references: the right answers.
    predictions: the answers to score, one for each reference.

  Returns:
    exact_match: fraction of right answers, from 0 to 1 (NaN for no answers).
    unparsed: number of replies without an answer to read; they count as wrong.
    many_markers: number of replies with '####' more than once.
    Each is a metric.Metric, which is a float.

  Raises:
    ValueError: the two differ in number, or a reference has no number.
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


def score(
  predictions: Sequence[str], references: Sequence[str]
) -> dict[str, float]:
  """Reads and scores replies; returns what `compare` does."""
  return compare(
    [extract(r) for r in references], [extract(p) for p in predictions]
  )
