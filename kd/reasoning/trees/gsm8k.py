"""Defines GSM8K as a search: a thought is a line of a worked solution.

The arithmetic of each line is checked exactly (steps.py), and the line with
'####' ends a path (arXiv 2110.14168). Two states are equal if their lines have
the same arithmetic statements.
"""

from collections.abc import Sequence
import dataclasses
import os

from kd.core import errors
from kd.reasoning import gsm8k_lines
from kd.reasoning.arithmetic import answers
from kd.reasoning.arithmetic import steps
from kd.reasoning.trees import tree_problem

FILE = os.path.join('gsm8k', 'train.jsonl')
MAX_PATH_LENGTH = 16  # Lines; the longest solution in GSM8K has 11.
_EXAMPLES = (
  (
    'A shelf holds 4 boxes with 6 pens each. 9 pens are sold. How many are '
    'left?',
    ('The boxes hold 4*6=24 pens.', '24-9=15 pens are left.', '#### 15'),
  ),
  (
    'Ann runs 3 km a day from Monday to Friday and half as far on Saturday. '
    'How many km does she run?',
    (
      'From Monday to Friday she runs 5*3=15 km.',
      'On Saturday she runs 3/2=1.5 km.',
      'Together these are 15+1.5=16.5 km.',
      '#### 16.5',
    ),
  ),
  (
    'A coat of $80 is sold for 25% less. What does it cost?',
    ('The price falls by 80*25%=20 dollars.', '80-20=60 dollars.', '#### 60'),
  ),
)


@dataclasses.dataclass(frozen=True)
class Lines:
  """Counts of checked lines.

  Attributes:
    checked: number of lines with statements that are all right.
    wrong: number of lines with a wrong statement.
  """

  checked: int
  wrong: int


class Gsm8k:
  """GSM8K; see tree_problem.TreeProblem."""

  name = 'gsm8k'
  enumerable = False
  max_examples = len(_EXAMPLES)

  def root(self, instance: tree_problem.Instance) -> tree_problem.State:
    return tree_problem.State(instance, (), Lines(0, 0))

  def depth(self, instance: tree_problem.Instance) -> int:
    del instance
    return MAX_PATH_LENGTH

  def propose(self, state: tree_problem.State) -> list[str]:
    """Raises TypeError: lines cannot be enumerated."""
    del state
    raise TypeError('the lines of a solution cannot be enumerated')

  def apply(
    self, state: tree_problem.State, thought: str
  ) -> tree_problem.State:
    """Accepts any line; `verify` handles wrong statements."""
    line = ' '.join(thought.split())
    if not line:
      raise tree_problem.Fault('empty', '')
    if len(line) > tree_problem.MAX_CHARS:
      raise tree_problem.Fault('no_parse', f'{len(line)} characters')
    statements = steps.check(line)
    wrong = any(step.kind in steps.ERRORS for step in statements)
    checked = not wrong and any(step.kind == steps.RIGHT for step in statements)
    lines = Lines(
      state.position.checked + checked, state.position.wrong + wrong
    )
    return tree_problem.State(state.instance, (*state.thoughts, line), lines)

  def key(self, state: tree_problem.State) -> str:
    keys = set()
    for line in state.thoughts:
      statements = [step.text for step in steps.check(line)] or [line.lower()]
      keys.add(';'.join(''.join(text.split()) for text in statements))
    return '\n'.join(sorted(keys))

  def is_terminal(self, state: tree_problem.State) -> bool:
    return bool(state.thoughts) and answers.MARKER in state.thoughts[-1]

  def is_solution(self, state: tree_problem.State) -> bool:
    """Returns whether all statements and the answer, if known, are right."""
    if not self.is_terminal(state) or state.position.wrong:
      return False
    answer, right = state.thoughts[-1], state.instance.answer
    if right:
      return answers.exact_match(answer, right)
    return answers.extract(answer).value is not None

  def verify(self, state: tree_problem.State) -> float:
    """Returns 0 with a wrong statement; otherwise rises with checked lines."""
    if state.position.wrong:
      return 0.0
    return (1 + state.position.checked) / (1 + len(state.thoughts))

  def examples(self, count: int) -> str:
    return ''.join(
      _question_text(question) + '\n'.join(lines) + '\n\n'
      for question, lines in _EXAMPLES[:count]
    )

  def inputs(self, instance: tree_problem.Instance) -> str:
    return _question_text(instance.question)

  def answer(self, state: tree_problem.State) -> str:
    """Returns the number after the last '####', without commas and units."""
    return str(answers.extract(state.thoughts[-1]).value)

  def targets(self, state: tree_problem.State) -> str:
    return '\n'.join(state.thoughts)

  def value_inputs(self, state: tree_problem.State) -> str:
    return (
      f'{_question_text(state.instance.question)}{tree_problem.text_so_far(state)}\n'
      'Are these steps right, and do they lead to the answer? Say sure, likely '
      'or impossible.\n'
    )

  def vote_inputs(self, states: Sequence[tree_problem.State]) -> str:
    choices = ''.join(
      f'Choice {i}:\n{tree_problem.text_so_far(s)}\n'
      for i, s in enumerate(states, 1)
    )
    return (
      f'{_question_text(states[0].instance.question)}\n{choices}'
      'Which choice is the best beginning of a right solution?\nChoice '
    )


def _question_text(question: str) -> str:
  return f'Question: {question}\nAnswer:\n'


def read(path: str) -> list[tree_problem.Instance]:
  """Reads the problems of a file, in order.

  Args:
    path: JSON lines; see gsm8k_lines.read.

  Raises:
    ConfigError: there is no such file, or a line is invalid.
  """
  if not os.path.isfile(path):
    raise errors.ConfigError(
      'search.data',
      f'no file {path!r}',
      legal=f'JSON lines of {gsm8k_lines.LEGAL}',
    )
  return [
    tree_problem.Instance(
      f'gsm8k-{line.number:05d}', line.question.strip(), line.final
    )
    for line in gsm8k_lines.read(path)
  ]
