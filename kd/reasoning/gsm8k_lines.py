"""Reads problems with worked answers, such as GSM8K (arXiv 2110.14168)."""

from collections.abc import Iterator
import dataclasses

from kd.core import errors
from kd.core import json_files
from kd.data_files import json_rows
from kd.reasoning.arithmetic import answers

LEGAL = '{"question": "text", "answer": "steps\\n#### 3"}'


@dataclasses.dataclass(frozen=True)
class Line:
  """A problem with its worked answer.

  Attributes:
    number: line number, from 1.
    question: the question.
    answer: worked steps and the line with the answer, as in the file.
    final: only the line with the answer, such as '#### 3'.
  """

  number: int
  question: str
  answer: str
  final: str


def read(path: str) -> Iterator[Line]:
  """Reads a file of problems.

  Args:
    path: JSON lines with `question` and `answer`; answers end with '#### N'.

  Yields:
    The problems in the order of the file.

  Raises:
    ConfigError: a line is invalid, or its answer has no number.
  """
  lines = json_rows.read(path, legal=LEGAL)
  for number, (where, value) in enumerate(lines, 1):
    texts = json_files.texts(value, where, LEGAL, ('question', 'answer'))
    last = texts['answer'].rpartition(answers.MARKER)[2].strip()
    final = f'{answers.MARKER} {last}'
    answer = answers.extract(final)
    if answer.value is None:
      raise errors.ConfigError(
        where,
        f'the answer ends with {last[-60:]!r}: {answer.reason}',
        legal=LEGAL,
      )
    yield Line(number, texts['question'], texts['answer'], final)
