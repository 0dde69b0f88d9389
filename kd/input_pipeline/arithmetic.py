"""Generates arithmetic problems with worked steps for tiny byte models."""

from collections.abc import Iterator
import dataclasses
import hashlib
import random

from kd.core import errors

SPLITS = ('train', 'validation')
# One problem in this many is held out, by the hash of its question, so the
# splits are disjoint for all seeds and counts.
HELD_OUT = 10


@dataclasses.dataclass(frozen=True)
class Problem:
  """An arithmetic problem.

  Attributes:
    question: e.g. '37+85-4'.
    steps: one operation each, from the left: ('37+85=122', '122-4=118').
    answer: the last step's result.
  """

  question: str
  steps: tuple[str, ...]
  answer: int


def generate(
  split: str, count: int, digits: int, terms: int, seed: int
) -> list[Problem]:
  """Generates distinct sums and differences without negative results.

  A shorter list is a prefix of a longer one.

  Args:
    split: 'train' or 'validation', which are disjoint.
    count: number of problems.
    digits: maximum number of digits per number; all lengths are equally likely.
    terms: number of numbers per problem, 2 or more.
    seed: seed of the choice of problems and their order.

  Returns:
    The problems.

  Raises:
    ConfigError: the split is unknown, or fewer such problems exist.
  """
  if split not in SPLITS:
    raise errors.unknown('data.split', 'split', split, SPLITS)
  found = {}
  draws = _draws(
    random.Random(f'{split}:{digits}:{terms}:{seed}'), digits, terms
  )
  for _ in range(100 * count + 1000):
    if len(found) == count:
      return list(found.values())
    problem = next(draws)
    if split_of(problem.question) == split:
      found.setdefault(problem.question, problem)
  raise errors.ConfigError(
    'data',
    f'{count} {split} problems of {terms} numbers of up to {digits} '
    f'digits were requested, but only about {len(found)} exist',
    legal='a smaller count, more digits or more terms',
  )


def split_of(question: str) -> str:
  """Returns the split of a question, which only depends on its text."""
  digest = hashlib.sha256(question.encode()).digest()
  held_out = int.from_bytes(digest[:8], 'big') % HELD_OUT == 0
  return 'validation' if held_out else 'train'


def _draws(rng: random.Random, digits: int, terms: int) -> Iterator[Problem]:
  while True:
    total = _number(rng, digits)
    question, steps = str(total), []
    for _ in range(terms - 1):
      number = _number(rng, digits)
      sign = '-' if number <= total and rng.random() < 0.5 else '+'
      question += f'{sign}{number}'
      step, total = _step(total, sign, number)
      steps.append(step)
    yield Problem(question, tuple(steps), total)


def _number(rng: random.Random, digits: int) -> int:
  width = rng.randint(1, digits)
  return rng.randint(10 ** (width - 1), 10**width - 1)


def _step(total: int, sign: str, number: int, slip: int = 0) -> tuple[str, int]:
  """Returns a step's text and its result, off by `slip`."""
  result = total + number if sign == '+' else total - number
  result += slip
  return f'{total}{sign}{number}={result}', result


def spoil(problem: Problem, probability: float, seed: int) -> Problem:
  """Replaces the worked steps with wrong ones with some probability.

  One step's result is 1 to 9 too large and the later steps continue from it,
  like a slip of a human annotator.

  Args:
    problem: a correct problem.
    probability: probability of an error.
    seed: together with the question, determines the error.

  Returns:
    The problem with its new steps and answer, or unchanged.
  """
  rng = random.Random(f'{seed}:{problem.question}')
  if rng.random() >= probability:
    return problem
  wrong_step = rng.randrange(len(problem.steps))
  slip = rng.randint(1, 9)
  total, steps = None, []
  for i, step in enumerate(problem.steps):
    first, sign, number = _operands(step)
    total = first if total is None else total
    text, total = _step(total, sign, number, slip if i == wrong_step else 0)
    steps.append(text)
  return Problem(problem.question, tuple(steps), total)


def _operands(step: str) -> tuple[int, str, int]:
  left = step.partition('=')[0]
  sign = '+' if '+' in left else '-'
  first, _, number = left.partition(sign)
  return int(first), sign, int(number)
