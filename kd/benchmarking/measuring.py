"""Measures one model on all held-out sets."""

from collections.abc import Sequence
import dataclasses
import re

from kd.benchmarking import models
from kd.benchmarking import pass_at_k
from kd.benchmarking import places
from kd.core import progress
from kd.core import types
from kd.evaluation import results
from kd.metrics import metric
from kd.train import evaluate
from kd.train.feeds import feed

FORMAT_ERRORS = 'format_errors'


def measure(
  opened: models.Opened,
  params: types.PyTree,
  teacher_targets: feed.LiveTargets | None,
  held_out: Sequence[evaluate.HeldOut],
  say: progress.Say,
) -> results.Result:
  """Measures likelihood, distance to the teacher, calibration and answers.

  Args:
    opened: the model.
    params: its parameters.
    teacher_targets: maps batches to targets on the model's mesh; None without a
      teacher.
    held_out: the sets.
    say: prints a line of progress.
  """
  evaluator = evaluate.Evaluator(
    opened.run, opened.model, teacher_targets, held_out, say, detailed=True
  )
  result = evaluator(params, lambda: None)
  more = pass_at_k.measure(opened, params, held_out, say)
  pattern = opened.run.config.benchmark.answer_format
  for one in held_out:
    if one.answers:
      wrong = _format_errors(result, one.name, pattern)
      of_set = more.setdefault(one.name, {})
      of_set |= {FORMAT_ERRORS: wrong} if wrong is not None else {}
  return _with_documents(_with_metrics(result, more), opened, held_out)


def _with_documents(result, opened, held_out):
  """Adds the column DOCUMENT to the sets that have windows of documents."""
  scores = dict(result.scores)
  for one in held_out:
    if any(map(_has_windows, one.prepared)):
      rows = places.of(opened.run, one, result).rows
      scores[one.name] = scores[one.name] | {results.DOCUMENT: list(rows)}
  return dataclasses.replace(result, scores=scores)


def _has_windows(task_rows):
  """Returns whether a document of a task has several rows."""
  counts = task_rows.counts
  return counts['rows'] > counts['examples'] - counts['too_long']


def _format_errors(result, set_name, pattern) -> metric.Metric | None:
  """Returns the share of answers with a wrong format; None if unknown."""
  answers = [x for x in result.answers if x['set'] == set_name]
  if pattern:
    wrong = [not re.search(pattern, x['answer']) for x in answers]
  elif all('unparsed' in x['scores'] for x in answers):
    wrong = [bool(x['scores']['unparsed']) for x in answers]
  else:
    return None
  return metric.Metric(
    wrong,
    title='format errors',
    unit='fraction',
    higher_is_better=False,
    diagnostic=True,
  )


def _with_metrics(result, more):
  """Adds metrics that have a value for each answer to a result."""
  metrics, scores = dict(result.metrics), dict(result.scores)
  descriptions = dict(result.descriptions)
  for set_name, of_set in more.items():
    scores[set_name] = scores[set_name] | {
      name: list(x.values) for name, x in of_set.items()
    }
    descriptions[set_name] = descriptions.get(set_name, {}) | {
      name: x.description for name, x in of_set.items()
    }
    metrics |= {f'eval/{set_name}/{k}': float(x) for k, x in of_set.items()}
  return dataclasses.replace(
    result, metrics=metrics, scores=scores, descriptions=descriptions
  )


def mean(runs: Sequence[results.Result]) -> results.Result:
  """Returns the mean over runs with different seeds, example by example.

  The answers are those of the first run. The calibration is computed from the
  tokens of all runs.

  Args:
    runs: results of one model on the same examples.

  Raises:
    ValueError: the examples differ.
  """
  first = runs[0]
  if len(runs) == 1:
    return first
  scores = {}
  for name, columns in first.scores.items():
    others = [run.scores[name] for run in runs]
    if any(other['weight'] != columns['weight'] for other in others):
      raise ValueError(f'{name}: the runs have different examples')
    scores[name] = {
      key: [_mean(x) for x in zip(*(o[key] for o in others), strict=True)]
      for key in columns
      if all(key in other for other in others)
    }
  metrics = {
    key: _mean([run.metrics[key] for run in runs])
    for key in first.metrics
    if all(key in run.metrics for run in runs)
  }
  return dataclasses.replace(first, metrics=metrics, scores=scores)


def _mean(values):
  if any(x is None for x in values):
    return None
  return sum(values) / len(values)
