"""What a search over partial thoughts needs to know of a problem.

The state of a search is what has been thought so far, after arXiv 2305.10601
(Tree of Thoughts). A thought is one line of text. Whatever a model writes, a
problem either makes a state of it or raises a `Fault`, in bounded time, and
never executes it.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any, Protocol

# What can be wrong with a model's text; a search counts each kind.
FAULTS = {
  'empty': 'the completion is empty',
  'too_long': 'the prompt leaves no room in the context',
  'cut': 'the completion met the token limit',
  'no_parse': 'the text is no thought of this problem',
  'not_left': 'a number that is not left: used before, or never there',
  'division_by_zero': 'a division by zero',
  'wrong_result': 'the result is not what the step comes to',
  'wrong_left': 'the numbers said to be left are others',
  'unread_value': "a judgement of a state can't be read",
  'unread_vote': "a vote can't be read",
}
# Characters of a thought that are looked at; a longer one is no thought.
LONGEST = 1000
# A model's words for a state, and what they count: arXiv 2305.10601, with
# `sure` as 1.
VALUES = {'sure': 1.0, 'likely': 0.05, 'impossible': 0.0}

_WORD = re.compile('[a-z]+|[0-9]+')


class Fault(ValueError):
  """A text that can't be used.

  Attributes:
    kind: a key of FAULTS.
  """

  def __init__(self, kind: str, detail: str):
    super().__init__(f'{FAULTS[kind]}: {detail}' if detail else FAULTS[kind])
    self.kind = kind


@dataclasses.dataclass(frozen=True)
class Instance:
  """One thing to solve.

  Attributes:
    id: names its tree's files; letters, digits, '-' and '_'.
    question: what is given.
    answer: the right answer, '' where any that verifies will do.
  """

  id: str
  question: str
  answer: str


@dataclasses.dataclass(frozen=True)
class State:
  """What has been thought of an instance.

  Attributes:
    instance: what is to be solved.
    thoughts: lines, the first one first.
    position: what the problem makes of them.
  """

  instance: Instance
  thoughts: tuple[str, ...]
  position: Any


class TreeProblem(Protocol):
  """A kind of instances, with rules that need no model.

  Attributes:
    name: in configs and files.
    enumerable: whether `propose` knows every legal thought.
    most_examples: how many worked examples there are for a prompt.
  """

  name: str
  enumerable: bool
  most_examples: int

  def root(self, instance: Instance) -> State:
    """The state before the first thought."""

  def depth(self, instance: Instance) -> int:
    """The most thoughts of a path; 0: any number."""

  def propose(self, state: State) -> list[str]:
    """Every legal thought, in a fixed order; for enumerable problems."""

  def apply(self, state: State, thought: str) -> State:
    """The state after a thought; raises Fault."""

  def key(self, state: State) -> str:
    """Equal for states from which the same can be reached."""

  def is_terminal(self, state: State) -> bool:
    """Whether nothing is left to think."""

  def is_solution(self, state: State) -> bool:
    """Whether it is terminal and right."""

  def verify(self, state: State) -> float:
    """The exact verifier's judgement, from 0 (lost) to 1."""

  def examples(self, count: int) -> str:
    """Instructions with worked examples, '' for none."""

  def inputs(self, instance: Instance) -> str:
    """What a student is asked; another model finds it behind examples."""

  def answer(self, state: State) -> str:
    """What a terminal state answers."""

  def targets(self, state: State) -> str:
    """All that a model has to write for a terminal state, answer included."""

  def value_inputs(self, state: State) -> str:
    """Asks for one word of VALUES."""

  def vote_inputs(self, states: Sequence[State]) -> str:
    """Asks for the number, from 1, of the best state."""


def written(state: State) -> str:
  """What a model has written when it is in a state: lines, each ended."""
  return ''.join(f'{thought}\n' for thought in state.thoughts)


def read_value(text: str) -> float:
  """Returns the last word of VALUES in a judgement; raises Fault."""
  words = [w for w in _WORD.findall(text[:LONGEST].lower()) if w in VALUES]
  if not words:
    raise Fault('unread_value', repr(text[:40]))
  return VALUES[words[-1]]


def read_vote(text: str, count: int) -> int:
  """The choice, from 0, that is the last number of a vote; raises Fault."""
  numbers = [w for w in _WORD.findall(text[:LONGEST].lower()) if w.isdigit()]
  # More digits than any choice has are not read.
  if not numbers or len(numbers[-1]) > 6 or not 1 <= int(numbers[-1]) <= count:
    raise Fault('unread_vote', repr(text[:40]))
  return int(numbers[-1]) - 1
