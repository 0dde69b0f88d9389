"""Final answers of worked solutions (GSM8K's '#### N'): reading and comparing.

The one extractor of the project: rewards, filters and evaluation all use it.
Its rules:

- A reply ends where a new paragraph opens the next 'Question:' or 'Q:'.
- With '####' in the reply, the answer is the first number on the line that
  follows the last '####'; without, it is the reply's last number.
- A number may have a sign (- or U+2212) of its own ('10-3' is no number),
  thousands grouped by commas, decimals, a currency sign, a unit ('29 dollars',
  '5km'), and punctuation behind it. '3/4' is the fraction.
- A percent sign is a unit like any other: '29%' is 29, since GSM8K writes the
  answer to "what percent" without it.
- What has digits and is none of these ('12:30', '1,23', '1e9', '10-3') is never
  guessed at: where the answer should stand it makes the reply unparsed.

Nothing is evaluated, and no float is made: values are exact fractions.
"""

from collections.abc import Sequence
import dataclasses
import fractions
import re

MARKER = '####'

_NEXT_QUESTION = re.compile(r'\n\s*\n\s*(?:Question|Q)\s*:|\nQ\s*:')
# What may stand between words; digits glued by anything else are one word.
_WORD = re.compile(r'[^\s=()\[\]{}*<>|"\'`~\u201c\u201d;!?_\\]+')
_NUMBER = re.compile(
  r"""
    (?P<sign>[-\u2212+]?)
    (?:[A-Z]{0,3}[$\u20ac\u00a3\u00a5])?
    (?P<sign2>[-\u2212]?)
    (?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?
    (?P<decimals>\.[0-9]+)?
    (?:/(?P<below>[0-9]+))?
    (?:%|[$\u20ac\u00a3\u00a5]|(?:-?[^\W\d_]+)+)?
    [.,:%]*
    """,
  re.VERBOSE,
)
_DIGIT = re.compile('[0-9]')


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
  """Reads the final answer of a reply, by the rules above."""
  text = _NEXT_QUESTION.split(text, maxsplit=1)[0]
  markers = text.count(MARKER)
  if markers:
    lines = text.rpartition(MARKER)[2].strip().splitlines()
    words = _candidates(lines[0]) if lines else []
    word = words[0] if words else None
    missing = f'no number behind the last {MARKER}'
  else:
    words = _candidates(text)
    word = words[-1] if words else None
    missing = 'no number'
  if word is None:
    return Answer(None, missing, markers)
  value = _value(word)
  reason = '' if value is not None else f'{word!r} is not one number'
  return Answer(value, reason, markers)


def _candidates(text: str) -> list[str]:
  """The words that have a digit and do not begin as a name does ('x2')."""
  words = []
  for match in _WORD.finditer(text):
    word = (
      match.group().lstrip('.,:#') if _leads(match.group()) else (match.group())
    )
    if _DIGIT.search(word) and not re.match(r'[^\W\d_]+[0-9]', word):
      words.append(word)
  return words


def _leads(word: str) -> bool:
  """Whether a word's leading punctuation is no decimal point."""
  return not re.match(r'\.[0-9]', word)


def _value(word: str) -> fractions.Fraction | None:
  """The number that a word is, or None."""
  match = _NUMBER.fullmatch(word)
  if not match or not (match['whole'] or match['decimals']):
    return None
  if match['sign'] and match['sign2']:
    return None
  below = match['below']
  if below is not None and (match['decimals'] or not int(below)):
    return None
  digits = (match['whole'] or '0').replace(',', '') + (match['decimals'] or '')
  value = fractions.Fraction(digits)
  if below is not None:
    value /= int(below)
  negative = match['sign'] in ('-', '\u2212') or match['sign2']
  return -value if negative else value


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
    predictions: as many answers.

  Returns:
    exact_match: share of right answers, from 0 to 1 (NaN for no answers).
    unparsed: number of replies without an answer to read; they count as wrong.
    many_markers: number of replies with '####' more than once.

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
  right = sum(map(_equal, predictions, references))
  return {
    'exact_match': right / len(references) if references else float('nan'),
    'unparsed': float(sum(p.value is None for p in predictions)),
    'many_markers': float(sum(p.markers > 1 for p in predictions)),
  }


def score(
  predictions: Sequence[str], references: Sequence[str]
) -> dict[str, float]:
  """Reads and scores replies; see `compare` for what comes back."""
  return compare(
    [extract(r) for r in references], [extract(p) for p in predictions]
  )
