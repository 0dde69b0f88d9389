"""Which metric of an evaluation chooses the best checkpoint."""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import ml_collections

from kd.config import rules
from kd.core import errors
from kd.evaluation import seqio_adapter
from kd.sampling import requests
from kd.train import evaluate

_LOW_IS_GOOD = (
  *('nll', 'perplexity', 'kl'),
  *('unparsed', 'many_markers', 'truncated', 'too_long'),
)


@dataclasses.dataclass(frozen=True)
class Best:
  """The choice of the best checkpoint.

  Attributes:
    metric: its full name, eval/<set>/<metric>; '' without held-out sets.
    highest: whether high values are good.
  """

  metric: str
  highest: bool

  def __str__(self) -> str:
    return f'{"highest" if self.highest else "lowest"} {self.metric}'

  def figure(self, metrics: Mapping[str, float]) -> float | None:
    """Returns a figure that is lowest for the best; None if it is unknown."""
    value = metrics.get(self.metric)
    if value is None or not math.isfinite(value):
      return None
    return -value if self.highest else value


def choose(config: ml_collections.ConfigDict) -> Best:
  """Returns what `evaluation.best` says."""
  best, sets = config.evaluation.best, config.evaluation.sets
  if not sets:
    return Best('', highest=False)
  highest = best.direction == 'max'
  if best.direction == 'auto':
    highest = best.metric.rpartition('/')[2] not in _LOW_IS_GOOD
  return Best(f'eval/{best.set or min(sets)}/{best.metric}', highest)


def check(
  config: ml_collections.ConfigDict, held_out: Sequence[evaluate.HeldOut]
) -> None:
  """Refuses a metric that the evaluations will not have.

  Args:
    config: the run's.
    held_out: the prepared sets.

  Raises:
    ConfigError: names the metrics that there are.
  """
  best = config.evaluation.best
  name = best.set or min(config.evaluation.sets, default='')
  known = rules.metrics_without_answers(config)
  if best.metric in known:
    return
  for held in held_out:
    if held.name == name:
      # The references stand in for answers: only the names are of interest.
      found = seqio_adapter.score(
        [_referred(part) for part in held.parts], config.data.module
      )
      if best.metric not in found.pooled:
        legal = [*known, *sorted(found.pooled)]
        raise errors.unknown(
          'evaluation.best.metric', 'metric', best.metric, legal
        )


def _referred(part):
  examples = part.examples()
  samples = [
    requests.Sample((), (), example['targets'], 'stop') for example in examples
  ]
  return seqio_adapter.Answered(part.task, examples, samples)
