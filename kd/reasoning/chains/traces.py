"""Checks sampled solutions: which are worth training on."""

import collections
from collections.abc import Sequence
import dataclasses
import fractions
import re

from kd.reasoning.arithmetic import answers
from kd.reasoning.arithmetic import steps as steps_lib
from kd.reasoning.chains import questions as questions_lib
from kd.sampling import requests

# Why a trace is not kept, in the order in which it is looked for.
TOO_LONG = 'prompt_too_long'  # There was no room for an answer.
EMPTY = 'empty'
CUT = 'cut'  # At the limit of tokens.
UNPARSED = 'no_answer'
MANY_MARKERS = 'many_markers'
WRONG_STEP = 'wrong_step'
FEW_STEPS = 'few_steps'
NO_REFERENCE = 'no_reference'
WRONG_ANSWER = 'wrong_answer'
OUTVOTED = 'outvoted'
DUPLICATE_TEXT = 'duplicate_text'
DUPLICATE_STEPS = 'duplicate_steps'
OVER_PROBLEM = 'over_per_problem'
OVER_STEPS = 'over_per_steps'
REASONS = (
  *(TOO_LONG, EMPTY, CUT, UNPARSED, MANY_MARKERS, WRONG_STEP, FEW_STEPS),
  *(NO_REFERENCE, WRONG_ANSWER, OUTVOTED, DUPLICATE_TEXT, DUPLICATE_STEPS),
  *(OVER_PROBLEM, OVER_STEPS),
)

# Words, numbers and signs, without punctuation.
_PIECE = re.compile(r'[^\W_]+(?:[.,][0-9]+)*|[-+*/=<>^]')


@dataclasses.dataclass(frozen=True)
class SampledSolution:
  """One reply as the model wrote it.

  Attributes:
    text: of it.
    finish: as requests.Sample has it.
    tokens: ids of it.
    logprob: nats, mean over its ids; 0 without ids.
  """

  text: str
  finish: str
  tokens: int
  logprob: float

  @classmethod
  def of(cls, sample: requests.Sample) -> 'SampledSolution':
    total = sum(sample.logprobs)
    return cls(
      text=sample.text,
      finish=sample.finish,
      tokens=len(sample.ids),
      logprob=round(total / len(sample.ids), 6) if sample.ids else 0.0,
    )


@dataclasses.dataclass(frozen=True)
class Vote:
  """What the samples of one problem answer (self-consistency, 2203.11171).

  Attributes:
    counts: how many gave each answer, the most frequent first.
    winner: the answer of most; None if none has one, or two have as many.
    fraction: the winner's fraction of the samples that answered; 0 without one.
  """

  counts: tuple[tuple[fractions.Fraction, int], ...]
  winner: fractions.Fraction | None
  fraction: float


@dataclasses.dataclass(frozen=True)
class Trace:
  """A reply with its verdicts.

  Attributes:
    question: that it solves.
    number: which of the question's samples it is, from 0.
    sampled: the reply.
    answer: what it answers.
    steps: its statements.
    vote: of all samples of the question.
    right: whether it answers as the reference does; None without one.
  """

  question: questions_lib.Question
  number: int
  sampled: SampledSolution
  answer: answers.Answer
  steps: tuple[steps_lib.Step, ...]
  vote: Vote
  right: bool | None

  @property
  def id(self) -> str:
    return f'{self.question.id}-{self.number}'

  @property
  def checked(self) -> int:
    """Statements that could be checked and are right."""
    kinds = steps_lib.RIGHT, steps_lib.ROUNDED
    return sum(step.kind in kinds for step in self.steps)

  @property
  def rationale(self) -> str:
    """Its worked steps, without calculator marks and the answer's line."""
    text = answers.own_part(self.sampled.text)
    if answers.MARKER in text:
      text = text.rpartition(answers.MARKER)[0]
    else:
      before, _, last = text.rstrip().rpartition('\n')
      text = before if before.strip() and answers.names_answer(last) else text
    return answers.without_marks(text).strip()

  @property
  def text_key(self) -> str:
    """Equal for texts that differ in case, blanks and punctuation alone."""
    return ' '.join(_PIECE.findall(self.rationale.lower()))

  @property
  def steps_key(self) -> tuple[str, ...]:
    """Equal for solutions that calculate the same in the same order."""
    prose = [s for s in self.steps if not s.marked] or self.steps
    return tuple(re.sub(r'[^0-9.+*/=()^-]', '', s.text) for s in prose)


def vote(found: Sequence[answers.Answer]) -> Vote:
  """Counts answers; replies without one have no vote."""
  values = [a.value for a in found if a.value is not None]
  counts = tuple(collections.Counter(values).most_common())
  if not counts or (len(counts) > 1 and counts[0][1] == counts[1][1]):
    return Vote(counts, None, 0.0)
  return Vote(counts, counts[0][0], counts[0][1] / len(values))


def judge(
  question: questions_lib.Question, samples: Sequence[SampledSolution]
) -> list[Trace]:
  """Returns the traces of all samples of one question; never raises."""
  # A reply that was cut off has not come to its answer.
  found = [
    answers.extract(s.text)
    if s.finish == 'stop'
    else answers.Answer(None, s.finish, 0)
    for s in samples
  ]
  voted = vote(found)
  reference = question.answer
  return [
    Trace(
      question=question,
      number=number,
      sampled=sampled,
      answer=answer,
      steps=tuple(steps_lib.check(answers.own_part(sampled.text))),
      vote=voted,
      right=None if reference is None else answer.value == reference,
    )
    for number, (sampled, answer) in enumerate(zip(samples, found, strict=True))
  ]
