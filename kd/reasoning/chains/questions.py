"""Reads the problems to solve, from JSON lines or a seqio task."""

from collections.abc import Callable, Sequence
import dataclasses
import os

from kd.core import errors
from kd.core import json_files
from kd.core import paths
from kd.data_files import json_rows
from kd.input_pipeline import conversations
from kd.input_pipeline import examples
from kd.input_pipeline import mixtures
from kd.input_pipeline import templates
from kd.reasoning.arithmetic import answers
from kd.reasoning.chains import answer_kinds

LEGAL = '{"question": text, "answer": text, "id": text}; answer, id optional'
_KEYS = ('question', 'answer', 'id')
_PROMPT_FIELDS = ('role', 'content', 'images')


@dataclasses.dataclass(frozen=True)
class Question:
  """A problem.

  Attributes:
    id: a unique id.
    inputs: text of the question in the prompt.
    solution: a reference solution with its answer; '' if there is none.
    rationale: the worked steps of the reference solution.
    chat: the messages before the answer, if the example is a chat.
  """

  id: str
  inputs: str
  solution: str
  rationale: str
  chat: tuple[templates.Message, ...] = ()


def read_file(path: str, question_format: str) -> list[Question]:
  """Reads problems from JSON lines, such as the files of GSM8K.

  Args:
    path: path of the file.
    question_format: the text to ask, with {question} for the question.

  Raises:
    ConfigError: the file is missing or empty, or a line is invalid.
  """
  path = paths.expand(path)
  if not os.path.isfile(path):
    raise errors.ConfigError('reasoning.problems', f'{path}: no such file')
  questions, line_by_id = [], {}
  lines = json_rows.read(path, legal=LEGAL)
  for number, (where, value) in enumerate(lines, 1):
    question = _question(value, where, number, question_format)
    if question.id in line_by_id:
      raise errors.ConfigError(
        where,
        f'has the id {question.id!r} of line {line_by_id[question.id]}',
        legal='ids that differ',
      )
    line_by_id[question.id] = number
    questions.append(question)
  if not questions:
    raise errors.ConfigError(path, 'is empty', legal=f'JSON lines of {LEGAL}')
  return questions


def _question(value, where, number, question_format):
  for key in value:
    if key not in _KEYS:
      raise errors.unknown(where, 'key', key, _KEYS)
  row = json_files.texts(value, where, LEGAL, _KEYS[:1], _KEYS[1:])
  worked = row['answer'] if 'answer' in row else ''
  return Question(
    id=row['id'] if 'id' in row else f'line-{number}',
    inputs=question_format.replace('{question}', row['question']),
    solution=worked.strip(),
    rationale=worked.rpartition(answers.MARKER)[0].strip(),
  )


def read_task(
  mixture: mixtures.Mixture,
  split: str,
  limit: int,
  say: Callable[[str], None],
) -> list[Question]:
  """Reads the examples of tasks and files.

  Args:
    mixture: the tasks and files.
    split: the split to read.
    limit: maximum number of questions of each task; -1: all.
    say: prints a line of progress.

  Raises:
    ConfigError: see examples.tasks and examples.stream.
  """
  questions = []
  tasks = [task for task, _ in examples.tasks(mixture, split)]
  for task in tasks:
    # Tasks of a mixture may have the same problems in different formats.
    prefix = f'{task.name}:' if len(tasks) > 1 else ''
    questions += [
      Question(
        prefix + row['id'],
        conversations.prompt_text(row),
        conversations.reference(row),
        row.get('rationale', ''),
        _chat(row),
      )
      for row in examples.stream(
        task, split, mixture.module, limit, say, urls=mixture.urls
      )
    ]
  return questions


def _chat(row: examples.Example) -> tuple[templates.Message, ...]:
  """Returns the messages before the answer, with the fields of prompts."""
  if 'messages' not in row:
    return ()
  return tuple(
    {key: message[key] for key in _PROMPT_FIELDS if key in message}
    for message in conversations.prompt(row)
  )


def split_shots(
  questions: Sequence[Question],
  shots: int,
  kind: answer_kinds.Kind = answer_kinds.NUMBER,
) -> tuple[list[Question], list[Question]]:
  """Splits questions into the first `shots` worked ones and the rest.

  Args:
    questions: all questions.
    shots: number of examples.
    kind: kind of the answers.

  Returns:
    The few-shot examples, and the questions to solve.

  Raises:
    ConfigError: too few questions have a readable answer and, if the kind has
      them, worked steps, or no question is left.
  """
  worked = [
    i
    for i, q in enumerate(questions)
    if (q.rationale or not kind.has_steps)
    and kind.read(q.solution).value is not None
  ][:shots]
  if len(worked) < shots:
    raise errors.ConfigError(
      'reasoning.shots',
      f'found {shots}, and {len(worked)} problems have worked steps',
      legal=f'0 to {len(worked)}, or problems with worked answers',
    )
  example_indices = set(worked)
  rest = [q for i, q in enumerate(questions) if i not in example_indices]
  if not rest:
    raise errors.ConfigError(
      'reasoning.shots',
      f'found {shots}: no problem is left to solve',
      legal=f'0 to {len(questions) - 1}',
    )
  return [questions[i] for i in worked], rest
