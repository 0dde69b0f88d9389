"""Checks sampled solutions for use as training data."""

import collections
from collections.abc import Sequence
import dataclasses
import re

from kd.reasoning.arithmetic import answers
from kd.reasoning.arithmetic import steps as steps_lib
from kd.reasoning.chains import answer_kinds
from kd.reasoning.chains import questions as questions_lib
from kd.sampling import requests

# Reasons why a trace is rejected, in the order of the checks.
TOO_LONG = 'prompt_too_long'  # The prompt leaves no room for an answer.
EMPTY = 'empty'
CUT = 'cut'  # The reply reached the token limit.
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
  """A reply of the model.

  Attributes:
    text: the text of the reply.
    finish: why it ended; see requests.Sample.
    tokens: number of tokens; for a server, an equal share of the tokens of its
      reply, 0 if it reports none.
    logprob: mean log-probability per token in nats; 0 without tokens, None
      for a server.
  """

  text: str
  finish: str
  tokens: int
  logprob: float | None

  @classmethod
  def from_sample(cls, sample: requests.Sample) -> 'SampledSolution':
    """Returns the solution of a decoded sample."""
    total = sum(sample.logprobs)
    return cls(
      text=sample.text,
      finish=sample.finish,
      tokens=len(sample.ids),
      logprob=round(total / len(sample.ids), 6) if sample.ids else 0.0,
    )


@dataclasses.dataclass(frozen=True)
class Vote:
  """A majority vote over samples of a problem (self-consistency, 2203.11171).

  Attributes:
    counts: answers and their counts, most frequent first.
    winner: the most frequent answer; None without answers or in a tie.
    fraction: the winner's fraction of all answers; 0 without a winner.
  """

  counts: tuple[tuple[answer_kinds.Value, int], ...]
  winner: answer_kinds.Value | None
  fraction: float


@dataclasses.dataclass(frozen=True)
class Trace:
  """A sampled solution with the results of its checks.

  Attributes:
    question: the question that it solves.
    number: index of the sample among those of the question, from 0.
    sampled: the reply.
    answer: the answer read from the reply.
    steps: the checked statements of the reply.
    vote: the vote over all samples of the question.
    reference: answer of the reference solution; None if it has none.
    kind: kind of the answers.
  """

  question: questions_lib.Question
  number: int
  sampled: SampledSolution
  answer: answers.Answer | answer_kinds.Text
  steps: tuple[steps_lib.Step, ...]
  vote: Vote
  reference: answer_kinds.Value | None
  kind: answer_kinds.Kind

  @property
  def id(self) -> str:
    return f'{self.question.id}-{self.number}'

  @property
  def right(self) -> bool | None:
    """Returns whether the answer equals the reference; None without one."""
    return (
      None if self.reference is None else self.answer.value == self.reference
    )

  @property
  def targets(self) -> str:
    """Returns the targets for the student."""
    if not self.kind.has_steps:
      return self.sampled.text.strip()
    answer = self.kind.shown(self.answer.value)
    return f'{self.rationale}\n{answers.MARKER} {answer}'

  @property
  def checked(self) -> int:
    """Returns the number of statements that were checked and are right."""
    kinds = steps_lib.RIGHT, steps_lib.ROUNDED
    return sum(step.kind in kinds for step in self.steps)

  @property
  def rationale(self) -> str:
    """Returns the worked steps, without calculator marks and answer line."""
    if not self.kind.has_steps:
      return ''
    text = answers.without_follow_up(self.sampled.text)
    if answers.MARKER in text:
      text = text.rpartition(answers.MARKER)[0]
    else:
      before, _, last = text.rstrip().rpartition('\n')
      text = (
        before if before.strip() and answers.announces_answer(last) else text
      )
    return answers.without_marks(text).strip()

  @property
  def text_key(self) -> str:
    """Returns a key that ignores case, whitespace and punctuation."""
    text = self.rationale if self.kind.has_steps else self.sampled.text
    return ' '.join(_PIECE.findall(text.lower()))

  @property
  def steps_key(self) -> tuple[str, ...]:
    """Returns a key of the calculations, in order."""
    prose = [s for s in self.steps if not s.is_mark] or self.steps
    return tuple(re.sub(r'[^0-9.+*/=()^-]', '', s.text) for s in prose)


def vote(answers_: Sequence[answers.Answer | answer_kinds.Text]) -> Vote:
  """Counts the answers; replies without an answer do not vote."""
  values = [a.value for a in answers_ if a.value is not None]
  counts = tuple(collections.Counter(values).most_common())
  if not counts or (len(counts) > 1 and counts[0][1] == counts[1][1]):
    return Vote(counts, None, 0.0)
  return Vote(counts, counts[0][0], counts[0][1] / len(values))


def judge(
  question: questions_lib.Question,
  samples: Sequence[SampledSolution],
  kind: answer_kinds.Kind = answer_kinds.NUMBER,
) -> list[Trace]:
  """Checks all samples of a question; never raises."""
  # A truncated reply has not reached its answer.
  answers_ = [
    kind.read(s.text)
    if s.finish == 'stop'
    else answers.Answer(None, s.finish, 0)
    for s in samples
  ]
  vote_ = vote(answers_)
  reference = kind.read(question.solution).value
  return [
    Trace(
      question=question,
      number=number,
      sampled=sampled,
      answer=answer,
      steps=_steps(sampled.text) if kind.has_steps else (),
      vote=vote_,
      reference=reference,
      kind=kind,
    )
    for number, (sampled, answer) in enumerate(
      zip(samples, answers_, strict=True)
    )
  ]


def _steps(text: str) -> tuple[steps_lib.Step, ...]:
  return tuple(steps_lib.check(answers.without_follow_up(text)))
