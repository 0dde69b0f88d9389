"""Reads and writes the result of an evaluation."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
from typing import Any

import numpy as np

from kd.core import atomic_files
from kd.core import json_lines
from kd.core import run_info
from kd.metrics import metric

# The metric of a task that decides whether an answer is right.
EXACT_MATCH = 'exact_match'
# The column of scores that says which rows are windows of one document.
DOCUMENT = 'document'
_ANSWERS = '.answers.jsonl'


@dataclasses.dataclass(frozen=True)
class Result:
  """What one model scored on every held-out set.

  Attributes:
    metrics: eval/<set>/<metric> over all examples of a set and, where the set
      has several tasks, eval/<set>/<task>/<metric>.
    scores: by set and metric, a number for each example: those of
      likelihood.make for the scored examples, and the task's own metrics for
      the answered ones (None where a task lacks the metric), with their weights
      as weight_of(metric) where examples weigh differently. DOCUMENT, where a
      document has several rows, has the number of each row's document.
    answers: a record for each answered example: set, task, id, prompt,
      reference, answer, verdict, scores, finish, tokens, in_rows (whether it
      was scored: examples that are too long are not), and `images` of a prompt
      that has any, thumbnails as data URIs.
    descriptions: by set and metric, of the tasks' metrics that have one.
  """

  metrics: dict[str, float]
  scores: dict[str, dict[str, list[float | None]]]
  answers: list[dict[str, Any]]
  descriptions: dict[str, dict[str, metric.Description]]


def weight_of(name: str) -> str:
  """Returns the name of the scores that are a metric's weights."""
  return f'{name}:weight'


def sum_by_document(
  columns: Mapping[str, Sequence[float]], documents: Sequence[int] | None
) -> dict[str, np.ndarray]:
  """Returns columns with the rows of each document added up.

  Windows of one document are alike, so a document is what is drawn in a
  bootstrap, not a window (a cluster bootstrap).

  Args:
    columns: [n] each, sums over a row's tokens.
    documents: [n], the number of each row's document; None: each row is one.

  Returns:
    The columns [documents], by number.
  """
  if documents is None:
    return {name: np.asarray(x, np.float64) for name, x in columns.items()}
  _, place = np.unique(documents, return_inverse=True)
  return {
    name: np.bincount(place, np.asarray(x, np.float64))
    for name, x in columns.items()
  }


def answers_path(path: str) -> str:
  """Returns the file of the answers that belong to a result's JSON file."""
  return path.removesuffix('.json') + _ANSWERS


def write(
  path: str, result: Result, more: Mapping[str, Any] | None = None
) -> None:
  """Writes a result.

  Args:
    path: the JSON file of metrics and scores. The answers go into a file of
      JSON lines next to it, see `answers_path`.
    result: the result.
    more: other fields of the JSON file.
  """
  os.makedirs(os.path.dirname(path), exist_ok=True)
  # Before the JSON file, whose presence means that the result is whole.
  json_lines.write(answers_path(path), result.answers)
  # A task's own metric may be NaN, such as a correlation without variance.
  number = run_info.json_number
  fields = {
    **(more or {}),
    'metrics': {name: number(x) for name, x in result.metrics.items()},
    'scores': {
      name: {
        metric: [number(x) for x in column]
        for metric, column in columns.items()
      }
      for name, columns in result.scores.items()
    },
    'descriptions': {
      name: {k: dataclasses.asdict(x) for k, x in described.items()}
      for name, described in result.descriptions.items()
    },
  }
  atomic_files.write_json(path, fields)


def read(path: str) -> tuple[dict[str, Any], Result] | None:
  """Reads what `write` wrote.

  Args:
    path: the JSON file.

  Returns:
    The other fields and the result; None where a file is missing, damaged or
    of an earlier version.
  """
  try:
    with open(path, encoding='utf-8') as f:
      fields = json.load(f)
    with open(answers_path(path), encoding='utf-8') as f:
      answers = [json.loads(line) for line in f]
    metrics = {k: float(x) for k, x in fields.pop('metrics').items()}
    scores = {
      name: {
        metric: [None if x is None else float(x) for x in column]
        for metric, column in columns.items()
      }
      for name, columns in fields.pop('scores').items()
    }
    descriptions = {
      name: {k: metric.Description(**x) for k, x in described.items()}
      for name, described in fields.pop('descriptions').items()
    }
    if not all(isinstance(x, dict) for x in answers):
      return None
    if not isinstance(fields.get('identity', {}), dict):
      return None
    return fields, Result(metrics, scores, answers, descriptions)
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None
  except RecursionError:  # JSON that is nested too deeply.
    return None
