"""Scores answers with the metrics of their seqio tasks."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import math
from typing import Any

import numpy as np

from kd.core import errors
from kd.core import user_errors
from kd.evaluation import results
from kd.input_pipeline import conversations
from kd.input_pipeline import examples
from kd.input_pipeline import mixtures
from kd.metrics import metric
from kd.sampling import requests

Example = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Answered:
  """Examples of one task with a model's answers.

  Attributes:
    task: name of a seqio.Task.
    examples: examples with `targets` and other fields that the postprocessor
      needs.
    samples: the answers, in the same order.
    template: chat template, for tool calls in references; see
      conversations.reference.
  """

  task: str
  examples: Sequence[Example]
  samples: Sequence[requests.Sample]
  template: str = ''


@dataclasses.dataclass(frozen=True)
class Scores:
  """Scores of the answers to examples of one or several tasks.

  Attributes:
    pooled: metrics over all examples. A metric function gets the examples of
      all its tasks at once: means are over examples, and counts are added.
    by_task: metrics of each task.
    by_example: metrics of each example, with tasks in order; None if its task
      lacks the metric. Contains a metric if the pooled one is a metric.Metric,
      or the mean or sum over examples. results.weight_of(name) has the weights
      if they are not equal.
    descriptions: descriptions of the pooled metrics.
  """

  pooled: dict[str, float]
  by_task: dict[str, dict[str, float]]
  by_example: dict[str, list[float | None]]
  descriptions: dict[str, metric.Description]


# Postprocessed targets and predictions of some examples.
Pairs = tuple[list[Any], list[Any]]
Metrics = Callable[[list[Any], list[Any]], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Task:
  """A task's metric functions and their arguments."""

  name: str
  ids: list[str]
  functions: tuple[Metrics, ...]
  pairs: Pairs


def score(
  answered: Sequence[Answered],
  mixture: mixtures.Mixture,
  metrics: Sequence[str] = (),
) -> Scores:
  """Scores answers with their tasks' postprocessors and metric functions.

  Adds two metrics: `truncated`, the fraction of answers cut off by the token
  limit, and `too_long`, the fraction of prompts that leave no space for an
  answer. Both are scored like any other answer.

  Args:
    answered: the answers by task.
    mixture: the mixture that contains the tasks.
    metrics: names in metric.METRICS, in addition to the tasks' metrics.

  Raises:
    ConfigError: a module or task does not exist, or a task has no metric
      functions, or one of them raises. The message names the task and, if
      possible, the example.
    ValueError: numbers of examples and samples differ, or there are none.
  """
  for part in answered:
    _check_lengths(part.examples, part.samples)
  examples.register(mixture)
  more = tuple(metric.METRICS[name] for name in metrics)
  tasks = [_read(part, more) for part in answered]
  by_function = [
    {f: _metrics(task, f, task.pairs) for f in task.functions} for task in tasks
  ]
  joined = [
    _joined(task, metrics)
    for task, metrics in zip(tasks, by_function, strict=True)
  ]
  example_metrics = [
    _by_example(task, metrics)
    for task, metrics in zip(tasks, by_function, strict=True)
  ]
  pooled = _pool(tasks, by_function, joined, example_metrics)
  by_example = _columns(pooled, sum(example_metrics, []))
  ends = _ends([s for part in answered for s in part.samples])
  pooled |= ends
  by_example |= {name: list(end.values) for name, end in ends.items()}
  by_task = {
    task.name: whole | _ends(part.samples)
    for task, whole, part in zip(tasks, joined, answered, strict=True)
  }
  descriptions = {
    name: value.description
    for name, value in pooled.items()
    if isinstance(value, metric.Metric)
  }
  return Scores(pooled, by_task, by_example, descriptions)


def _columns(pooled, example_metrics):
  """Returns the values, and weights if any, by metric and example."""
  columns = {}
  for name, value in pooled.items():
    column = [scores.get(name) for scores in example_metrics]
    if isinstance(value, metric.Metric):
      columns[name] = column
      if value.weights is not None:
        weight = results.weight_of(name)
        columns[weight] = [
          scores.get(weight, 1.0) for scores in example_metrics
        ]
      continue
    measured = [x for x in column if x is not None]
    if measured and _reduction(measured, value):
      columns[name] = column
  return columns


def _pool(tasks, by_function, metrics, example_metrics):
  """Returns metrics over the examples of all tasks.

  A function shared by several tasks gets all their examples at once. A metric
  that different functions return is pooled if it is a mean over examples in all
  tasks, or a count in all tasks. Otherwise it is left out.

  Args:
    tasks: the tasks.
    by_function: metrics by task and function.
    metrics: metrics by task.
    example_metrics: metrics by task and example.
  """
  pooled: dict[str, list[float]] = {}
  for function in dict.fromkeys(f for task in tasks for f in task.functions):
    members = [n for n, task in enumerate(tasks) if function in task.functions]
    returned = by_function[members[0]][function]
    if len(members) > 1:
      columns = zip(*(tasks[n].pairs for n in members), strict=True)
      pairs = tuple(sum(column, []) for column in columns)
      returned = _metrics(tasks[members[0]], function, pairs)
    for name, value in returned.items():
      pooled.setdefault(name, []).append(value)
  result = {}
  for name, values in pooled.items():
    value = (
      values[0]
      if len(values) == 1
      else _combined(metrics, example_metrics, name)
    )
    if value is not None:
      result[name] = value
  return result


def _combined(metrics, example_metrics, name):
  """Pools a metric that tasks compute with different functions, or None."""
  whole = [by_name[name] for by_name in metrics if name in by_name]
  if all(isinstance(value, metric.Metric) for value in whole):
    return metric.join(whole)
  reductions, values = set(), []
  for by_name, scores in zip(metrics, example_metrics, strict=True):
    if name in by_name:
      column = [s[name] for s in scores if name in s]
      reductions.add(_reduction(column, by_name[name]))
      values += column
  if len(reductions) != 1 or None in reductions:
    return None
  return float(reductions.pop()(values))


def _reduction(values, whole):
  """Returns np.mean or np.sum if it maps `values` to `whole`, else None."""
  for function in (np.mean, np.sum):
    if len(values) and np.isclose(function(values), whole, rtol=1e-9):
      return function
  return None


def _ends(samples):
  """Returns the metrics `truncated` and `too_long`."""
  rare = dict(unit='fraction', higher_is_better=False, diagnostic=True)
  titles = {
    'truncated': ('length', 'answers cut off'),
    'too_long': ('too_long', 'prompts too long'),
  }
  return {
    name: metric.Metric(
      [s.finish == finish for s in samples], title=title, **rare
    )
    for name, (finish, title) in titles.items()
  }


def _check_lengths(*columns) -> None:
  lengths = [len(c) for c in columns]
  if len(set(lengths)) != 1 or not lengths[0]:
    raise ValueError(
      f'{lengths} examples and samples: the numbers must be equal, and not 0'
    )


def _read(part: Answered, more: tuple[Metrics, ...]) -> _Task:
  """Postprocesses targets and predictions.

  Args:
    part: examples and answers of a task.
    more: additional metric functions.
  """
  task = _task(part.task)
  functions = (*task.predict_metric_fns, *more)
  if not functions:
    raise errors.ConfigError(
      'evaluation',
      f'task {part.task!r} has no metric function for answers',
      legal='a task with metric_fns(targets, predictions), or '
      'evaluation.metrics',
    )
  post = task.postprocess_fn
  targets, predictions, ids = [], [], []
  for number, (example, sample) in enumerate(
    zip(part.examples, part.samples, strict=True)
  ):
    ids.append(str(example.get('id', number)))
    reference = _text(conversations.reference(example, part.template))
    try:
      targets.append(post(reference, example=example, is_target=True))
      predictions.append(post(sample.text, example=example, is_target=False))
    except Exception as e:  # A user's function may raise anything.
      what = f'the postprocessor of task {part.task!r} failed on example '
      raise user_errors.refuse(e, 'evaluation', f'{what}{ids[-1]!r}') from e
  return _Task(part.task, ids, functions, (targets, predictions))


def _task(name: str):
  """Returns the registered task, or an error with the nearest name."""
  import seqio  # Imports TensorFlow, which is slow.

  if name not in seqio.TaskRegistry.names():
    raise errors.unknown(
      'evaluation', 'task', name, sorted(seqio.TaskRegistry.names())
    )
  return seqio.TaskRegistry.get(name)


def _text(value: str | bytes) -> str:
  """Decodes a field: bytes from seqio, str from prepared rows."""
  return value.decode('utf-8') if isinstance(value, bytes) else value


def _by_example(task: _Task, by_function) -> list[dict[str, float]]:
  """Returns the metrics of each example, and weights if any.

  Args:
    task: the task.
    by_function: the returned metrics by metric function.
  """
  scores: list[dict[str, float]] = [{} for _ in task.ids]
  for function, whole in by_function.items():
    reported = {k: m for k, m in whole.items() if isinstance(m, metric.Metric)}
    for name, value in reported.items():
      for one, x in zip(scores, value.values, strict=True):
        one[name] = x
      for one, w in zip(scores, value.weights or (), strict=False):
        one[results.weight_of(name)] = w
    if len(reported) < len(whole):
      for one, pair in zip(scores, zip(*task.pairs, strict=True), strict=True):
        # A metric that needs several examples, like a correlation, raises.
        with contextlib.suppress(errors.ConfigError):
          own = _metrics(task, function, tuple([x] for x in pair))
          one |= {
            k: v
            for k, v in own.items()
            if k not in reported and math.isfinite(v)
          }
  return scores


def _metrics(task: _Task, function: Metrics, pairs: Pairs) -> dict[str, float]:
  """Returns a function's numeric metrics; images and texts are skipped.

  Raises:
    ConfigError: the function raises, or a metric does not have one value per
      example.
  """
  try:
    metrics = function(*pairs)
  except Exception as e:  # A user's function may raise anything.
    raise errors.ConfigError(
      'evaluation',
      f'a metric function of task {task.name!r} failed'
      f'{_culprit(task, function)}: {type(e).__name__}: {e}',
      legal='metric functions that accept every example and every answer',
    ) from e
  numeric = {}
  for name, value in metrics.items():
    if isinstance(value, metric.Metric):
      numeric[name] = _checked(task, name, value, len(pairs[0]))
      continue
    value = getattr(value, 'value', value)  # seqio.metrics.Scalar
    if not np.ndim(value) and np.issubdtype(np.asarray(value).dtype, np.number):
      numeric[name] = float(value)
  return numeric


def _checked(task, name, value, count):
  """Returns the metric; raises unless it has one value per example."""
  if len(value.values) != count:
    raise errors.ConfigError(
      'evaluation',
      f'metric {name!r} of task {task.name!r} has {len(value.values)} values',
      legal=f'one per example: {count}',
    )
  return value


def _joined(task, by_function):
  """Returns the metrics of all functions of a task.

  Raises:
    ConfigError: two functions return a metric with the same name.
  """
  joined = {}
  for metrics in by_function.values():
    for name, value in metrics.items():
      if name in joined:
        raise errors.ConfigError(
          'evaluation',
          f'task {task.name!r} has two metrics named {name!r}',
          legal='names that differ',
        )
      joined[name] = value
  return joined


def _culprit(task, function):
  """Returns a phrase with the first example for which a function raises."""
  for name, target, prediction in zip(task.ids, *task.pairs, strict=True):
    try:
      function([target], [prediction])
    except Exception:  # Any: `function` is the user's.
      return f' at example {name!r}'
  return ''
