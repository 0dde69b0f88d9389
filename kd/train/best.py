"""The metrics that select the best checkpoint and end training early."""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import ml_collections

from kd.config import rules
from kd.core import errors
from kd.evaluation import measures
from kd.evaluation import seqio_adapter
from kd.input_pipeline import conversations
from kd.metrics import metric
from kd.sampling import requests
from kd.train import evaluate

# Sections of `evaluation` that name a metric.
BEST, STOP = 'best', 'stop'

# Descriptions of task metrics, by held-out set and metric.
Descriptions = Mapping[str, Mapping[str, metric.Description]]


_LIKELIHOODS = {m.metric: m.about for m in measures.LIKELIHOODS}


@dataclasses.dataclass(frozen=True)
class Best:
  """A metric and its direction.

  Attributes:
    metric: its full name, eval/<set>/<metric>; '' without held-out sets.
    highest: whether higher values are better.
  """

  metric: str
  highest: bool

  def __str__(self) -> str:
    return f'{"highest" if self.highest else "lowest"} {self.metric}'

  def quality(self, metrics: Mapping[str, float]) -> float | None:
    """Returns the metric, negated if higher is better; None if not finite."""
    value = metrics.get(self.metric)
    if value is None or not math.isfinite(value):
      return None
    return -value if self.highest else value


def _own_name(name: str) -> str:
  """Returns NAME of a metric TASK/NAME or NAME."""
  return name.rpartition('/')[2]


def choose(
  config: ml_collections.ConfigDict,
  described: Descriptions,
  section: str = BEST,
) -> Best:
  """Returns the metric and direction that a section of `evaluation` names.

  Args:
    config: config of the run.
    described: descriptions of task metrics, by set.
    section: BEST or STOP.
  """
  best, sets = config.evaluation[section], config.evaluation.sets
  if not sets:
    return Best('', highest=False)
  name = best.set or min(sets)
  highest = best.direction == 'max'
  if best.direction == 'auto':
    known = {**described.get(name, {}), **_LIKELIHOODS}
    about = known.get(_own_name(best.metric), metric.Description())
    highest = about.higher_is_better
  return Best(f'eval/{name}/{best.metric}', highest)


def text(config: ml_collections.ConfigDict) -> str:
  """Returns a description of `evaluation.best` that needs no loaded task."""
  chosen = choose(config, {})
  best = config.evaluation.best
  if best.direction == 'auto' and _own_name(best.metric) not in _LIKELIHOODS:
    return f'{chosen.metric}, lowest or highest, as the task defines'
  return str(chosen)


def check(
  config: ml_collections.ConfigDict,
  held_out: Sequence[evaluate.HeldOut],
  section: str = BEST,
) -> Best:
  """Returns the metric of a section after checking that it exists.

  Args:
    config: config of the run.
    held_out: the prepared sets.
    section: BEST or STOP.

  Raises:
    ConfigError: there is no such metric; names the existing ones.
  """
  best = config.evaluation[section]
  name = best.set or min(config.evaluation.sets, default='')
  known = rules.metrics_without_answers(config)
  if best.metric in known:
    return choose(config, {}, section)
  described = {}
  for held in held_out:
    if held.name == name:
      # Scores the references as answers, since only metric names are needed.
      scores = seqio_adapter.score(
        [_referred(task_rows) for task_rows in held.prepared],
        held.mixture,
        config.evaluation.metrics,
      )
      if best.metric not in scores.pooled:
        legal = [*known, *sorted(scores.pooled)]
        raise errors.unknown(
          f'evaluation.{section}.metric', 'metric', best.metric, legal
        )
      described[name] = scores.descriptions
  return choose(config, described, section)


def _referred(task_rows):
  examples = list(task_rows.examples())
  samples = [
    requests.Sample((), (), conversations.reference(example), 'stop')
    for example in examples
  ]
  return seqio_adapter.Answered(task_rows.task, examples, samples)
