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

# The task metric that decides whether an answer is right.
EXACT_MATCH = 'exact_match'
# The column of scores with the document number of each row.
DOCUMENT = 'document'
_ANSWERS = '.answers.jsonl'


@dataclasses.dataclass(frozen=True)
class Result:
  """The evaluation of one model on all held-out sets.

  Attributes:
    metrics: eval/<set>/<metric> over all examples of a set and, if the set has
      several tasks, eval/<set>/<task>/<metric>.
    scores: by set and metric, one number per example: the scores of
      likelihood.Scorer for scored examples, and the tasks' metrics for answered
      ones (None if a task lacks the metric). weight_of(metric) has the weights
      if they are not equal. DOCUMENT has the document number of each row if
      some document has several rows.
    answers: one record per answered example: set, task, id, prompt, reference,
      answer, verdict, scores, finish, tokens, in_rows (whether the example was
      scored; false if it is too long), and, if the prompt has images, `images`:
      thumbnails as data URIs. If it was measured, there are also `token_kl`,
      the KL from the teacher to the model at each token of the answer and its
      stop id, in nats (None: not finite), and `token_ends`, the number of
      characters of the answer up to the end of each token; see
      answer_kl.token_ends.
    descriptions: descriptions of the tasks' metrics, by set and metric.
  """

  metrics: dict[str, float]
  scores: dict[str, dict[str, list[float | None]]]
  answers: list[dict[str, Any]]
  descriptions: dict[str, dict[str, metric.Description]]


def weight_of(name: str) -> str:
  """Returns the name of the column with a metric's weights."""
  return f'{name}:weight'


def sum_by_document(
  columns: Mapping[str, Sequence[float]], documents: Sequence[int] | None
) -> dict[str, np.ndarray]:
  """Sums columns over the rows of each document.

  The rows of a document are correlated, so the bootstrap draws documents rather
  than rows (a cluster bootstrap).

  Args:
    columns: [n] each, sums over a row's tokens.
    documents: [n], document number of each row; None: one row per document.

  Returns:
    The columns [documents], by document number.
  """
  if documents is None:
    return {name: np.asarray(x, np.float64) for name, x in columns.items()}
  _, place = np.unique(documents, return_inverse=True)
  return {
    name: np.bincount(place, np.asarray(x, np.float64))
    for name, x in columns.items()
  }


def answers_path(path: str) -> str:
  """Returns the path of the answers, given that of the result's JSON file."""
  return path.removesuffix('.json') + _ANSWERS


def write(
  path: str, result: Result, more: Mapping[str, Any] | None = None
) -> None:
  """Writes a result.

  Args:
    path: path of the JSON file of metrics and scores. The answers are written
      to a JSON lines file next to it; see `answers_path`.
    result: the result.
    more: additional fields of the JSON file.
  """
  os.makedirs(os.path.dirname(path), exist_ok=True)
  # Written first: the JSON file marks the result as complete.
  json_lines.write(answers_path(path), result.answers)
  # A task's metric may be NaN, such as a correlation without variance.
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
  """Reads a result written by `write`.

  Args:
    path: path of the JSON file.

  Returns:
    The additional fields and the result; None if a file is missing, damaged or
    written by an earlier version.
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
