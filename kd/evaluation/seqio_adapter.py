"""Answers scored by the seqio task that they belong to."""

from collections.abc import Mapping, Sequence
import importlib
from typing import Any

import numpy as np

from kd.core import errors
from kd.core import quiet
from kd.sampling import requests

Example = Mapping[str, Any]


def score(
  task_name: str,
  module: str,
  examples: Sequence[Example],
  texts: Sequence[str],
  samples: Sequence[requests.Sample],
) -> dict[str, float]:
  """Scores answers with a task's own postprocessor and metric functions.

  Args:
    task_name: of a seqio.Task.
    module: the module that declares it, e.g. 'data.mixtures'.
    examples: with `targets` and whatever else the postprocessor reads.
    texts: the answers, decoded.
    samples: the answers as they were generated.

  Returns:
    The metrics by name; `truncated`, the share of answers that the token limit
    cut off; and `too_long`, the share of prompts that had no room. Both kinds
    are scored like any other text, which is to say mostly as wrong.

  Raises:
    ConfigError: no such module or task, or the task has no metric functions.
    ValueError: numbers of examples, texts and samples differ, there are
      none, or a metric is no number.
  """
  _check_lengths(examples, texts, samples)
  task = _task(task_name, module)
  metrics = _metrics(task, *_postprocess(task, examples, texts))
  ends = {
    'truncated': np.mean([sample.finish == 'length' for sample in samples]),
    'too_long': np.mean([sample.finish == 'too_long' for sample in samples]),
  }
  return metrics | {name: float(share) for name, share in ends.items()}


def score_each(
  task_name: str,
  module: str,
  examples: Sequence[Example],
  texts: Sequence[str],
) -> dict[str, np.ndarray]:
  """Scores each answer alone, for intervals over examples.

  Args:
    task_name: of a seqio.Task.
    module: the module that declares it.
    examples: as for `score`.
    texts: the answers, decoded.

  Returns:
    float64 [n] by name of metric. The mean of a metric that is itself a mean
    over examples equals what `score` gives, the sum of one that is a count.

  Raises:
    ConfigError, ValueError: as `score`.
  """
  _check_lengths(examples, texts)
  task = _task(task_name, module)
  targets, predictions = _postprocess(task, examples, texts)
  each = [
    _metrics(task, [t], [p]) for t, p in zip(targets, predictions, strict=True)
  ]
  return {
    name: np.asarray([m[name] for m in each], np.float64) for name in each[0]
  }


def _check_lengths(*columns) -> None:
  lengths = [len(c) for c in columns]
  if len(set(lengths)) != 1 or not lengths[0]:
    raise ValueError(
      f'found {lengths} examples, texts and samples: as many of each are'
      ' needed, and one at least'
    )


def _task(name: str, module: str):
  """The registered task, or an error with the nearest name."""
  # Not at the top: it brings TensorFlow along, for seconds and 880 MB.
  with quiet.imports():
    import seqio

  try:
    importlib.import_module(module)
  except ModuleNotFoundError as e:
    if e.name is None or not module.startswith(e.name):
      raise  # The module is there; what it imports is not.
    raise errors.ConfigError(
      'data.module', f'no module {module!r}', legal='an importable module'
    ) from e
  if name not in seqio.TaskRegistry.names():
    raise errors.unknown(
      'evaluation', 'task', name, sorted(seqio.TaskRegistry.names())
    )
  task = seqio.TaskRegistry.get(name)
  if not task.predict_metric_fns:
    raise errors.ConfigError(
      'evaluation',
      f'task {name!r} has no metric function of answers',
      legal='a task with metric_fns(targets, predictions)',
    )
  return task


def _postprocess(task, examples, texts):
  """What the metric functions compare: targets and predictions, read."""
  targets = [
    task.postprocess_fn(_text(e['targets']), example=e, is_target=True)
    for e in examples
  ]
  predictions = [
    task.postprocess_fn(text, example=e, is_target=False)
    for e, text in zip(examples, texts, strict=True)
  ]
  return targets, predictions


def _text(value: str | bytes) -> str:
  """The text of a field: bytes from seqio, str from prepared rows."""
  return value.decode('utf-8') if isinstance(value, bytes) else value


def _metrics(task, targets, predictions) -> dict[str, float]:
  """The numbers of all metric functions; a name may come from one alone."""
  found = {}
  for function in task.predict_metric_fns:
    for name, value in function(targets, predictions).items():
      if name in found:
        raise ValueError(f'task {task.name!r} has two metrics named {name!r}')
      if np.ndim(value):
        raise ValueError(
          f'metric {name!r} of task {task.name!r} is no number: {value!r}'
        )
      found[name] = float(value)
  return found
