"""Problems to be solved in words: from JSON lines or a seqio task."""

from collections.abc import Callable, Sequence
import dataclasses
import fractions
import os

from kd.core import errors
from kd.core import json_files
from kd.core import paths
from kd.input_pipeline import examples
from kd.reasoning.arithmetic import answers

LEGAL = '{"question": text, "answer": text, "id": text}; answer, id optional'
_KEYS = ('question', 'answer', 'id')


@dataclasses.dataclass(frozen=True)
class Question:
  """A problem.

  Attributes:
    id: unlike any other's.
    inputs: what a model is asked.
    worked: a solution, from which the answer can be read; '' without one.
    rationale: the worked steps that it begins with.
  """

  id: str
  inputs: str
  worked: str
  rationale: str

  @property
  def answer(self) -> fractions.Fraction | None:
    """The right answer; None where the solution has no number, or is ''."""
    return answers.extract(self.worked).value


def read_file(path: str, form: str) -> list[Question]:
  """Reads JSON lines; GSM8K's own files are such.

  Args:
    path: the file.
    form: what is asked, with {question} in the question's place.

  Raises:
    ConfigError: the file is missing or empty, or a line is wrong.
  """
  path = paths.expand(path)
  if not os.path.isfile(path):
    raise errors.ConfigError('reasoning.problems', f'{path}: no such file')
  found, seen = [], {}
  lines = json_files.read_lines(path, LEGAL)
  for number, (where, value) in enumerate(lines, 1):
    question = _question(value, where, number, form)
    if question.id in seen:
      raise errors.ConfigError(
        where,
        f'has the id {question.id!r} of line {seen[question.id]}',
        legal='ids that differ',
      )
    seen[question.id] = number
    found.append(question)
  if not found:
    raise errors.ConfigError(path, 'is empty', legal=f'JSON lines of {LEGAL}')
  return found


def _question(value, where, number, form):
  for key in value:
    if key not in _KEYS:
      raise errors.unknown(where, 'key', key, _KEYS)
  row = json_files.texts(value, where, LEGAL, _KEYS[:1], _KEYS[1:])
  worked = row['answer'] if 'answer' in row else ''
  return Question(
    id=row['id'] if 'id' in row else f'line-{number}',
    inputs=form.replace('{question}', row['question']),
    worked=worked.strip(),
    rationale=worked.rpartition(answers.MARKER)[0].strip(),
  )


def read_task(
  name: str, split: str, module: str, limit: int, say: Callable[[str], None]
) -> list[Question]:
  """Reads the examples of a seqio task or mixture.

  Args:
    name: that `module` registers.
    split: of it.
    module: a Python module.
    limit: the number of questions of each task, from the first; -1: all.
    say: called with lines of progress.

  Raises:
    ConfigError: as examples.tasks and examples.read.
  """
  found = []
  tasks = [task for task, _ in examples.tasks(name, split, module)]
  for task in tasks:
    # Tasks of a mixture may show the same problems in different ways.
    prefix = f'{task.name}:' if len(tasks) > 1 else ''
    found += [
      Question(
        prefix + row['id'], row['inputs'], row['targets'], row['rationale']
      )
      for row in examples.read(task, split, module, limit, say)
    ]
  return found


def split_shots(
  found: Sequence[Question], shots: int
) -> tuple[list[Question], list[Question]]:
  """Takes the first worked problems as examples; the others are to be solved.

  Raises:
    ConfigError: fewer have worked steps and a readable answer, or none is left.
  """
  worked = [
    i for i, q in enumerate(found) if q.rationale and q.answer is not None
  ][:shots]
  if len(worked) < shots:
    raise errors.ConfigError(
      'reasoning.shots',
      f'found {shots}, and {len(worked)} problems have worked steps',
      legal=f'0 to {len(worked)}, or problems with worked answers',
    )
  taken = set(worked)
  rest = [q for i, q in enumerate(found) if i not in taken]
  if not rest:
    raise errors.ConfigError(
      'reasoning.shots',
      f'found {shots}: no problem is left to solve',
      legal=f'0 to {len(found) - 1}',
    )
  return [found[i] for i in worked], rest
