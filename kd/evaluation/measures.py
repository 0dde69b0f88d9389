"""Metrics of one evaluation with their titles and confidence intervals."""

from collections.abc import Sequence
import dataclasses
import math

from kd.evaluation import intervals
from kd.evaluation import results

NLL, KL, AGREEMENT = 'nll', 'kl', 'agreement'


@dataclasses.dataclass(frozen=True)
class Measure:
  """A metric as people read it.

  Attributes:
    metric: its name within a held-out set.
    title: with its unit.
    by_token: whether it is a mean over target tokens, and scores are sums over
      those of an example; otherwise it is a mean over examples or a count.
  """

  metric: str
  title: str
  by_token: bool


_LIKELIHOODS = (
  Measure(NLL, 'NLL, nats a token', True),
  Measure('perplexity', 'perplexity', True),
  Measure(KL, 'KL to the teacher, nats a token', True),
  Measure(AGREEMENT, 'top-1 agreement with the teacher', True),
  Measure('accuracy', 'top-1 accuracy on the references', True),
)
_TITLES = {
  results.EXACT_MATCH: 'exact match',
  'truncated': 'answers cut off, share',
  'too_long': 'prompts without room, share',
  'unparsed': 'answers without a number, count',
  'many_markers': 'answers with several marks, count',
}
# Metrics that are of interest where they are not 0.
_RARE = ('truncated', 'too_long', 'unparsed', 'many_markers')


def of(result: results.Result, set_name: str) -> list[Measure]:
  """Returns the measures of a held-out set, those of its tasks last."""
  names = _names(result, set_name)
  known = [m for m in _LIKELIHOODS if m.metric in names]
  rest = sorted(names.keys() - {m.metric for m in known})
  # What answers are right comes before what is known about the others.
  rest.sort(key=lambda name: name != results.EXACT_MATCH)
  others = [Measure(x, _TITLES.get(x, x), False) for x in rest if '/' not in x]
  return known + others


def is_shown(
  measure: Measure, values: Sequence[intervals.Interval | float | None]
) -> bool:
  """Returns whether some models' values of a measure belong in a table."""
  if measure.metric in _RARE:
    return any(
      (x.value if isinstance(x, intervals.Interval) else x) for x in values
    )
  return True


def tasks(result: results.Result, set_name: str) -> list[str]:
  """Returns the tasks of a held-out set that has several."""
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
  result: results.Result, set_name: str, measure: Measure
) -> tuple[list[float], list[float] | None] | None:
  """Returns what a metric is the mean of.

  Returns:
    Each example's value, and its weight or None where all weigh the same. None
    if the metric was not measured, or is no such mean.
  """
  scores = result.scores[set_name]
  metric = NLL if measure.metric == 'perplexity' else measure.metric
  if metric not in scores:
    return None
  if measure.by_token:
    weights = list(scores['weight'])
    values = zip(scores[metric], weights, strict=True)
    return [value / weight for value, weight in values], weights
  # A task of the set may lack the metric.
  values = [value for value in scores[metric] if value is not None]
  whole = result.metrics[f'eval/{set_name}/{metric}']
  mean = sum(values) / len(values)
  return (values, None) if math.isclose(mean, whole, rel_tol=1e-6) else None


def value(
  result: results.Result, set_name: str, measure: Measure
) -> intervals.Interval | float | None:
  """Returns a metric with its interval, or alone where it has none.

  Returns:
    None if it was not measured.
  """
  examples = per_example(result, set_name, measure)
  if examples is None:
    return result.metrics.get(f'eval/{set_name}/{measure.metric}')
  if not all(map(math.isfinite, examples[0])):
    return math.nan
  interval = intervals.mean(*examples)
  if measure.metric == 'perplexity':
    return interval.map(lambda x: math.exp(min(x, 700.0)))
  return interval


def counts(result: results.Result, set_name: str) -> dict[str, int]:
  """Returns the numbers of examples and tokens that were evaluated."""
  answers = [x for x in result.answers if x['set'] == set_name]
  weights: Sequence[float] = result.scores[set_name]['weight']
  found = {'examples': len(weights), 'target_tokens': round(sum(weights))}
  if answers:
    tokens = sum(answer['tokens'] for answer in answers)
    found |= {'answers': len(answers), 'answer_tokens': tokens}
  return found
