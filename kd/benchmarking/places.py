"""Maps scored rows and answers to their examples."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from kd.evaluation import results
from kd.input_pipeline import conversations
from kd.input_pipeline import encoding
from kd.run import resolved
from kd.train import evaluate


@dataclasses.dataclass(frozen=True)
class Places:
  """The examples of the rows and answers of a set.

  Attributes:
    examples: the examples of all tasks of the set.
    rows: index of the example, by scored row. A long document has several rows,
      one for each window.
    answers: index of the example, by answer.
    tasks: name of the task, by example.
  """

  examples: Sequence[Mapping[str, Any]]
  rows: Sequence[int]
  answers: Sequence[int]
  tasks: Sequence[str]


def of(
  run: resolved.Run, held_out: evaluate.HeldOut, result: results.Result
) -> Places:
  """Returns the places of a set.

  Args:
    run: the run that prepared the set.
    held_out: the held-out set.
    result: any model's result on it, with the scores of a benchmark.
  """
  encoder = encoding.Encoder(
    run.tokenizer,
    run.config.data.template,
    run.config.data.length,
    run.config.data.long,
    run.config.data.chunk_overlap,
  )
  every, tasks, by_row, answers = [], [], {}, []
  for task_rows in held_out.prepared:
    row, first = task_rows.first_row_id, len(every)
    for example in task_rows.examples():
      number = len(every)
      every.append(example)
      tasks.append(task_rows.task)
      if not example['in_rows']:
        continue
      windows = 1
      if conversations.is_document(example):
        windows = len(encoder.encode(example, number))
      by_row |= dict.fromkeys(range(row, row + windows), number)
      row += windows
    if held_out.answers:
      count = len(every) - first
      most = held_out.answers if held_out.answers > 0 else count
      answers += range(first, first + min(most, count))
  rows = [by_row[int(x)] for x in result.scores[held_out.name]['row']]
  return Places(every, rows, answers, tasks)
