"""Describes the metrics of an evaluation: titles, values, intervals."""

from collections.abc import Sequence
import dataclasses
import math

from kd.evaluation import calibration
from kd.evaluation import intervals
from kd.evaluation import results
from kd.metrics import metric

NLL, KL, AGREEMENT = 'nll', 'kl', 'agreement'
PERPLEXITY, ECE = 'perplexity', 'ece'


@dataclasses.dataclass(frozen=True)
class Measure:
  """The presentation of a metric.

  Attributes:
    metric: name of the metric within a held-out set.
    about: its title, unit and direction.
    by_token: whether it is a mean over target tokens, with scores that are sums
      over an example's target tokens; otherwise it is a mean or sum over
      examples.
  """

  metric: str
  about: metric.Description
  by_token: bool

  @property
  def title(self) -> str:
    """Returns the title with the unit."""
    return self.about.heading(self.metric)

  @property
  def is_main(self) -> bool:
    """Returns whether reports compare models by it, also for each task."""
    return self.metric == NLL or not (self.by_token or self.about.diagnostic)


def _likelihood(name, title, unit='', higher_is_better=True):
  return Measure(name, metric.Description(title, unit, higher_is_better), True)


LIKELIHOODS = (
  _likelihood(NLL, 'NLL', 'nats per token', higher_is_better=False),
  _likelihood(PERPLEXITY, 'perplexity', higher_is_better=False),
  _likelihood(
    KL, 'KL to the teacher', 'nats per token', higher_is_better=False
  ),
  _likelihood(AGREEMENT, 'top-1 agreement with the teacher'),
  _likelihood('top5_agreement', 'top-5 agreement with the teacher'),
  _likelihood('acceptance', 'acceptance of drafts by the teacher, 1 - TV'),
  _likelihood('accuracy', 'top-1 accuracy on the references'),
  _likelihood(ECE, 'calibration error, ECE', higher_is_better=False),
)


def of(result: results.Result, set_name: str) -> list[Measure]:
  """Returns the measures of a held-out set, with the tasks' metrics last."""
  names = _names(result, set_name)
  known = [m for m in LIKELIHOODS if m.metric in names]
  rest = names.keys() - {m.metric for m in known}
  described = result.descriptions.get(set_name, {})
  others = [
    Measure(x, described.get(x, metric.Description()), False)
    for x in sorted(rest)
    if '/' not in x
  ]
  # Diagnostic metrics come last.
  return known + sorted(others, key=lambda m: m.about.diagnostic)


def is_shown(
  measure: Measure, values: Sequence[intervals.Interval | float | None]
) -> bool:
  """Returns whether to show a measure: diagnostic ones only if nonzero."""
  if measure.about.diagnostic:
    return any(
      (x.value if isinstance(x, intervals.Interval) else x) for x in values
    )
  return True


def tasks(result: results.Result, set_name: str) -> list[str]:
  """Returns the tasks of a held-out set; [] if it has only one."""
  names = _names(result, set_name)
  return sorted({x.rpartition('/')[0] for x in names if '/' in x})


def _names(result, set_name):
  prefix = f'eval/{set_name}/'
  return {
    name.removeprefix(prefix): value
    for name, value in result.metrics.items()
    if name.startswith(prefix)
  }


def per_example(
  result: results.Result,
  set_name: str,
  measure: Measure,
  documents: Sequence[int] | None = None,
) -> tuple[list[float], list[float] | None] | None:
  """Returns the values whose weighted mean is a metric.

  Args:
    result: result of a model.
    set_name: name of the held-out set.
    measure: the metric.
    documents: document number of each row; None: as in the result.

  Returns:
    The value of each example and its weight, or None for equal weights. All
    rows of a document are one example. None if the metric was not measured or
    is not such a mean.
  """
  scores = result.scores[set_name]
  name = NLL if measure.metric == PERPLEXITY else measure.metric
  if name not in scores or measure.about.total:
    return None
  if measure.by_token:
    sums = results.sum_by_document(
      {key: scores[key] for key in (name, 'weight')},
      scores.get(results.DOCUMENT) if documents is None else documents,
    )
    return list(sums[name] / sums['weight']), list(sums['weight'])
  # A task of the set may lack the metric.
  measured = [i for i, x in enumerate(scores[name]) if x is not None]
  values = [scores[name][i] for i in measured]
  weights = scores.get(results.weight_of(name))
  if weights is not None:
    return values, [weights[i] for i in measured]
  whole = result.metrics[f'eval/{set_name}/{name}']
  mean = sum(values) / len(values)
  return (values, None) if math.isclose(mean, whole, rel_tol=1e-6) else None


def value(
  result: results.Result,
  set_name: str,
  measure: Measure,
  runs: Sequence[results.Result] = (),
) -> intervals.Interval | float | None:
  """Returns a metric with its interval, if it has one.

  Args:
    result: result of a model, or the mean over runs.
    set_name: name of the held-out set.
    measure: the metric.
    runs: results with different seeds; their spread widens the interval.

  Returns:
    The interval, or a number if there is none; None if it was not measured.
  """
  alone = _value(result, set_name, measure)
  if not isinstance(alone, intervals.Interval):
    return alone
  name = f'eval/{set_name}/{measure.metric}'
  return intervals.with_spread(alone, [run.metrics[name] for run in runs])


def _value(result, set_name, measure):
  if measure.metric == ECE and calibration.is_in(result.scores[set_name]):
    return calibration.error(result.scores[set_name])
  examples = per_example(result, set_name, measure)
  if examples is None:
    return result.metrics.get(f'eval/{set_name}/{measure.metric}')
  if not all(map(math.isfinite, examples[0])):
    return math.nan
  interval = intervals.mean(*examples)
  if measure.metric == PERPLEXITY:
    return interval.map(lambda x: math.exp(min(x, 700.0)))
  return interval


def counts(result: results.Result, set_name: str) -> dict[str, int]:
  """Returns the numbers of examples and tokens that were evaluated."""
  answers = [x for x in result.answers if x['set'] == set_name]
  weights: Sequence[float] = result.scores[set_name]['weight']
  numbers = {'examples': len(weights), 'target_tokens': round(sum(weights))}
  if answers:
    tokens = sum(answer['tokens'] for answer in answers)
    numbers |= {'answers': len(answers), 'answer_tokens': tokens}
  return numbers
