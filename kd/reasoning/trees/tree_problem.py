"""Defines the interface between a problem and a search over thoughts.

The state of a search is the list of previous thoughts, after Tree of Thoughts
(arXiv 2305.10601). A thought is one line of text. For any text of a model, a
problem either returns the next state or raises a `Fault`. It takes bounded time
and never executes the text.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any, Protocol

# Kinds of unusable texts; a search counts each kind.
FAULTS = {
  'empty': 'the completion is empty',
  'too_long': 'the prompt leaves no room in the context',
  'cut': 'the completion reached the token limit',
  'no_parse': 'the text is not a thought of this problem',
  'not_left': 'a number that is not left: already used, or never given',
  'division_by_zero': 'a division by zero',
  'wrong_result': 'the result of the step is wrong',
  'wrong_left': 'the list of numbers that are left is wrong',
  'unread_value': 'a judgment of a state cannot be parsed',
  'unread_vote': 'a vote cannot be parsed',
}
# Maximum length of a thought in characters; longer ones are invalid.
MAX_CHARS = 1000
# Values of a model's judgments of a state, after arXiv 2305.10601 with
# `sure` as 1.
VALUES = {'sure': 1.0, 'likely': 0.05, 'impossible': 0.0}

_WORD = re.compile('[a-z]+|[0-9]+')


class Fault(ValueError):
  """Raised for a text that cannot be used.

  Attributes:
    kind: a key of FAULTS.
  """

  def __init__(self, kind: str, detail: str):
    super().__init__(f'{FAULTS[kind]}: {detail}' if detail else FAULTS[kind])
    self.kind = kind


@dataclasses.dataclass(frozen=True)
class Instance:
  """An instance of a problem.

  Attributes:
    id: id, used in file names: letters, digits, '-' and '_'.
    question: the question.
    answer: the reference answer; '' if any verified answer is right.
  """

  id: str
  question: str
  answer: str


@dataclasses.dataclass(frozen=True)
class State:
  """A state of a search.

  Attributes:
    instance: the instance to solve.
    thoughts: the previous thoughts, in order.
    position: data of the problem that follows from the thoughts.
  """

  instance: Instance
  thoughts: tuple[str, ...]
  position: Any


class TreeProblem(Protocol):
  """A problem: its rules, prompts and verifier.

  Attributes:
    name: name in configs and files.
    enumerable: whether `propose` can enumerate all legal thoughts.
    max_examples: number of worked examples available for a prompt.
  """

  name: str
  enumerable: bool
  max_examples: int

  def root(self, instance: Instance) -> State:
    """Returns the state before the first thought."""

  def depth(self, instance: Instance) -> int:
    """Returns the maximum length of a path in thoughts; 0: no limit."""

  def propose(self, state: State) -> list[str]:
    """Returns all legal thoughts in a fixed order, if enumerable."""

  def apply(self, state: State, thought: str) -> State:
    """Returns the state after a thought; raises Fault."""

  def key(self, state: State) -> str:
    """Returns a key that is equal for equivalent states."""

  def is_terminal(self, state: State) -> bool:
    """Returns whether the state is final."""

  def is_solution(self, state: State) -> bool:
    """Returns whether the state is terminal and right."""

  def verify(self, state: State) -> float:
    """Returns the value by the exact verifier, from 0 (lost) to 1."""

  def examples(self, count: int) -> str:
    """Returns instructions with `count` worked examples; '' for none."""

  def inputs(self, instance: Instance) -> str:
    """Returns the question as text; prompts put it after the examples."""

  def answer(self, state: State) -> str:
    """Returns the answer of a terminal state."""

  def targets(self, state: State) -> str:
    """Returns the complete reply that ends in a terminal state."""

  def value_inputs(self, state: State) -> str:
    """Returns a prompt that asks for one word of VALUES."""

  def vote_inputs(self, states: Sequence[State]) -> str:
    """Returns a prompt that asks for the number of the best state, from 1."""


def text_so_far(state: State) -> str:
  """Returns the thoughts of a state as text, each with a line end."""
  return ''.join(f'{thought}\n' for thought in state.thoughts)


def read_value(text: str) -> float:
  """Returns the value of the last word of VALUES in a text; raises Fault."""
  words = [w for w in _WORD.findall(text[:MAX_CHARS].lower()) if w in VALUES]
  if not words:
    raise Fault('unread_value', repr(text[:40]))
  return VALUES[words[-1]]


def read_vote(text: str, count: int) -> int:
  """Returns the last number of a vote as an index from 0; raises Fault."""
  numbers = [w for w in _WORD.findall(text[:MAX_CHARS].lower()) if w.isdigit()]
  # Bounds the cost of int().
  if not numbers or len(numbers[-1]) > 6 or not 1 <= int(numbers[-1]) <= count:
    raise Fault('unread_vote', repr(text[:40]))
  return int(numbers[-1]) - 1
