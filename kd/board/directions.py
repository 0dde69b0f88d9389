"""Determines whether high or low values of a metric are good."""

from collections.abc import Mapping
import functools
import os

from kd.board import run_files
from kd.evaluation import measures
from kd.evaluation import results
from kd.run import outputs

_LIKELIHOODS = {
  m.metric: m.about.higher_is_better for m in measures.LIKELIHOODS
}
_LOW = ('loss', 'time', 'wait', 'compile', 'nonfinite', 'bytes', '_s')


def is_highest(
  metric: str, direction: str, runs: Mapping[str, run_files.RunFiles]
) -> bool:
  """Returns whether high values of a metric are good.

  Args:
    metric: name of the metric, such as eval/held_out/nll.
    direction: 'min', 'max', or 'auto': from the descriptions of tasks' metrics
      in evaluations; low for losses and times.
    runs: runs that may have evaluations.
  """
  if direction != 'auto':
    return direction == 'max'
  metric = metric.removeprefix(run_files.BASELINE)
  head, _, own = metric.rpartition('/')
  if own in _LIKELIHOODS:
    return _LIKELIHOODS[own]
  if not head.startswith('eval/'):
    return not any(word in metric for word in _LOW)
  set_name = head.split('/')[1]
  for files in runs.values():
    if files.get(metric) is not None:
      described = _described(files.folder, set_name, own)
      if described is not None:
        return described
  return True


@functools.lru_cache(maxsize=256)
def _described(folder, set_name, metric):
  """Returns `higher_is_better` of a task's metric; None if not described."""
  where = os.path.join(folder, outputs.EVALUATIONS)
  try:
    names = sorted(os.listdir(where))
  except OSError:
    return None
  for name in names:
    if name.endswith('.json'):
      record = results.read(os.path.join(where, name))
      about = record and record[1].descriptions.get(set_name, {}).get(metric)
      if about:
        return about.higher_is_better
  return None
