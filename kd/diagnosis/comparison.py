"""Compares evaluations of the same examples."""

from kd.evaluation import intervals
from kd.evaluation import measures
from kd.evaluation import results

_WORSE = 0.02  # of the NLL


def increase(
  before: results.Result, after: results.Result, set_name: str
) -> intervals.Interval | None:
  """Returns the increase of the NLL between two evaluations.

  Args:
    before: the first evaluation.
    after: the second evaluation, of the same examples.
    set_name: the held-out set.

  Returns:
    The difference with its interval, in nats per token; None if the interval's
    lower bound is at most 0 or 2 % of the NLL.
  """
  measure = measures.LIKELIHOODS[0]
  pairs = [
    measures.per_example(result, set_name, measure)
    for result in (after, before)
    if set_name in result.scores
  ]
  if len(pairs) < 2 or not all(pairs):
    return None
  (high, weights), (low, _) = pairs
  try:
    change = intervals.difference(high, low, weights)
  except ValueError:  # Different examples, or values that are not finite.
    return None
  level = before.metrics[f'eval/{set_name}/{measure.metric}']
  return change if change.low > max(0.0, _WORSE * level) else None


def interval(change: intervals.Interval) -> str:
  """Formats a value with its interval."""
  return f'{change.value:.3f} [{change.low:.3f}, {change.high:.3f}]'
