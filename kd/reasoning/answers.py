r"""Final answers of worked solutions (GSM8K's '#### N'): reading and comparing.

The one extractor of the project: rewards, filters, votes and evaluation all use
it. Its rules:

- A reply ends at a later line that begins with 'Question:' or 'Q:'.
- With '####' in the reply, the answer is the first number on the line that
  follows the last '####'. Without, it is the last number in the last \boxed{},
  else the number directly behind the last 'answer is' or 'answer:', else the
  reply's last number.
- A number may have a sign (- or U+2212) of its own ('10-3' is no number),
  thousands grouped by commas, decimals, a currency sign, a unit ('29 dollars',
  '5km'), and punctuation behind it. '3/4' is the fraction, '3 1/2' the mixed
  number, and so are their LaTeX forms.
- A percent sign is a unit like any other: '29%' is 29, since GSM8K writes the
  answer to "what percent" without it.
- What has digits and is none of these ('12:30', '1,23', '1e9', '10-3', more
  than 40 digits) is never guessed at: where the answer should stand it makes
  the reply unparsed.

Nothing is evaluated, no float is made (values are exact fractions), and time is
linear in the reply's length.
"""

from collections.abc import Sequence
import dataclasses
import fractions
import re

from kd.reasoning import notation

MARKER = '####'

_NEXT_QUESTION = re.compile(r'(?:Question|Q)\s*:')
_BOXED = re.compile(r'\\f?boxed\s?\{')
_ANSWER_IS = re.compile(r'(?i)\banswer(?:\s?is\s?:?|\s?:|\s?=)')
# What may stand between words; digits glued by anything else are one word.
_WORD = re.compile(r'[^\s=()\[\]{}*<>|"\'`~\u201c\u201d;!?_\\]+')
# Joins a mixed number to one word.
_JOINT = '\ue000'
_MIXED = re.compile(
  r'(?<![0-9.,:/])([0-9]{1,9}) ([0-9]{1,9})/([0-9]{1,9})(?![0-9]|[.,:/][0-9])'
)
_SIGNED_FRACTION = re.compile(r'-\(([0-9]+/[0-9]+)\)')
_NUMBER = re.compile(
  r"""
    (?P<sign>[-+]?)
    (?:[A-Z]{0,3}[$\u20ac\u00a3\u00a5])?
    (?P<sign2>-?)
    (?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?
    (?P<decimals>\.[0-9]+)?
    (?:\ue000(?P<above>[0-9]+))?
    (?:/(?P<below>[0-9]+))?
    (?:%|[$\u20ac\u00a3\u00a5]|-?[^\W\d_]+(?:-[^\W\d_]+)*(?:\^[0-9])?)?
    [.,:%]*
    """,
  re.VERBOSE,
)
_DIGIT = re.compile('[0-9]')
_CALCULATOR = re.compile(r'<<[^<>]*>>')
_MOST_DIGITS = 40


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
  text = own_part(text)
  markers = text.count(MARKER)
  if markers:
    lines = text.rpartition(MARKER)[2].strip().splitlines()
    words = _candidates(lines[0]) if lines else []
    word = words[0] if words else None
    missing = f'no number behind the last {MARKER}'
  else:
    word, missing = _without_marker(text)
  if word is None:
    return Answer(None, missing, markers)
  value = _value(word)
  shown = word.replace(_JOINT, ' ')
  reason = '' if value is not None else f'{shown[:60]!r} is not one number'
  return Answer(value, reason, markers)


def own_part(text: str) -> str:
  """The reply without a question that it asks itself."""
  for match in _NEXT_QUESTION.finditer(text):
    before = text[: match.start()].rstrip(' \t')
    if before.endswith('\n'):
      return before
  return text


def _without_marker(text: str) -> tuple[str | None, str]:
  """The word that answers a reply without '####', or why there is none."""
  boxed = _last_boxed(text)
  if boxed is not None:
    words = _candidates(boxed)
    return (words[-1] if words else None), 'no number in the last box'
  for match in reversed(list(_ANSWER_IS.finditer(text))):
    behind = text[match.end() : match.end() + 80].split('\n')[0]
    # Whole words: the last one may be cut.
    first = _WORD.search(_tidy(behind))
    words = _candidates(text[match.end() :].split('\n', 1)[0])
    if first and words and _DIGIT.search(first.group()):
      return words[0], ''
    break
  words = _candidates(text)
  return (words[-1] if words else None), 'no number'


def _last_boxed(text: str) -> str | None:
  r"""What the last \boxed{...} holds; to the end where it is never closed."""
  matches = list(_BOXED.finditer(text))
  if not matches:
    return None
  begin, depth = matches[-1].end(), 1
  for at in range(begin, len(text)):
    depth += (text[at] == '{') - (text[at] == '}')
    if not depth:
      return text[begin:at]
  return text[begin:]


def _tidy(text: str) -> str:
  """Plain notation, each mixed number one word."""
  text = _SIGNED_FRACTION.sub(r'-\1', notation.plain(text))
  return _MIXED.sub(_join, text)


def _join(match: re.Match) -> str:
  whole, above, below = match.groups()
  proper = int(above) < int(below)
  return f'{whole}{_JOINT}{above}/{below}' if proper else match.group()


def _candidates(text: str) -> list[str]:
  """The words that have a digit and do not begin as a name does ('x2')."""
  words = []
  for match in _WORD.finditer(_tidy(text)):
    word = match.group()
    if not re.match(r'\.[0-9]', word):  # Else a decimal point leads it.
      word = word.lstrip('.,:#')
    if _DIGIT.search(word) and not re.match(r'[^\W\d_]+[0-9]', word):
      words.append(word)
  return words


def _value(word: str) -> fractions.Fraction | None:
  """The number that a word is, or None."""
  match = _NUMBER.fullmatch(word)
  if not match or not (match['whole'] or match['decimals']):
    return None
  if match['sign'] and match['sign2']:
    return None
  if sum(map(str.isdigit, word)) > _MOST_DIGITS:
    return None
  above, below = match['above'], match['below']
  if below is not None and (match['decimals'] or not int(below)):
    return None
  digits = (match['whole'] or '0').replace(',', '') + (match['decimals'] or '')
  value = fractions.Fraction(digits)
  if above is not None:
    if below is None:
      return None
    value += fractions.Fraction(int(above), int(below))
  elif below is not None:
    value /= int(below)
  return -value if '-' in (match['sign'], match['sign2']) else value


def without_marks(text: str) -> str:
  """A solution without GSM8K's calculator marks, <<48/2=24>>."""
  return _CALCULATOR.sub('', text)


def write(value: fractions.Fraction) -> str:
  """A number as text that `extract` reads back: '24', '-0.5', '1/3'."""
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
