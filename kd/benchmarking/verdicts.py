"""Decides whether a model is better or worse than a reference.

The noise floor of a difference is its interval: a paired bootstrap over the
examples, widened by the spread over seeds if there are several. A verdict is
derived from the interval and never states that two models are equal.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from kd.core import errors
from kd.core import verdict_names
from kd.evaluation import intervals
from kd.evaluation import measures
from kd.evaluation import results

SHIP, UNCLEAR, WORSE = verdict_names.VERDICTS

# Verdicts for which the command fails, by benchmark.fail_on.
FAILURES = {
  'worse': (WORSE,),
  'not_distinguishable': (UNCLEAR, WORSE),
  'nothing': (),
}


class VerdictError(errors.KdError):
  """A model is not good enough; its benchmark has been written."""

  exit_code = 4


@dataclasses.dataclass(frozen=True)
class Verdict:
  """A verdict on one set.

  Attributes:
    verdict: SHIP, UNCLEAR or WORSE.
    measure: the measure that was compared.
    difference: value of the model minus that of the reference.
    margin: largest difference that does not count as worse.
    seeds: numbers of runs of the model and of the reference.
  """

  verdict: str
  measure: measures.Measure
  difference: intervals.Interval
  margin: float
  seeds: tuple[int, int]


def measure_of(
  runs: Sequence[results.Result],
  reference: Sequence[results.Result],
  set_name: str,
  name: str,
) -> measures.Measure:
  """Returns the measure for the verdict on a set.

  Args:
    runs: results of the model.
    reference: results of the reference; () if not measured yet.
    set_name: name of the held-out set.
    name: benchmark.metric.

  Raises:
    ConfigError: the set does not have the metric, it is not a mean over
      examples, or the reference lacks it.
  """
  usable = _means(runs, set_name)
  there = _means(reference, set_name) if reference else usable
  common = [key for key in usable if key in there]
  if name == 'auto':
    is_there = results.EXACT_MATCH in common
    name = results.EXACT_MATCH if is_there else measures.NLL
  if name not in usable:
    raise errors.unknown(
      'benchmark.metric', f'metric of {set_name!r}', name, common
    )
  if name not in there:
    raise errors.ConfigError(
      'benchmark.metric',
      f'the reference has not measured {name!r} on {set_name!r}',
      legal=', '.join(sorted(common)),
    )
  return usable[name]


def check_metric(reference: Sequence[results.Result], name: str) -> None:
  """Raises ConfigError if a reference lacks a metric on all sets.

  Args:
    reference: results of an earlier benchmark.
    name: benchmark.metric.
  """
  usable = {key for x in reference[0].scores for key in _means(reference, x)}
  if name != 'auto' and name not in usable:
    raise errors.unknown(
      'benchmark.metric', 'metric of the reference', name, sorted(usable)
    )


def _means(runs, set_name) -> dict[str, measures.Measure]:
  """Returns the measures that are means over examples in all runs."""
  return {
    measure.metric: measure
    for measure in measures.of(runs[0], set_name)
    if all(measures.per_example(run, set_name, measure) for run in runs)
  }


def decide(
  measure: measures.Measure,
  set_name: str,
  runs: Sequence[results.Result],
  reference: Sequence[results.Result],
  paired: bool,
  margin: float,
) -> Verdict:
  """Compares the runs of a model with those of a reference on one set.

  Args:
    measure: result of `measure_of`.
    set_name: name of the held-out set, with the same examples for all.
    runs: results of the model with different seeds.
    reference: results of the reference with different seeds.
    paired: whether run i of both has the same seed and data.
    margin: largest difference that does not count as worse.
  """
  # The reference's file may lack the document numbers of rows.
  documents = runs[0].scores[set_name].get(results.DOCUMENT)
  own, weights = _values(runs, set_name, measure, documents)
  others, _ = _values(reference, set_name, measure, documents)
  difference = intervals.difference(
    own.mean(axis=0), others.mean(axis=0), weights
  )
  means = [np.average(x, axis=1, weights=weights) for x in (own, others)]
  groups = [means[0] - means[1]] if paired else means
  difference = intervals.with_spread(difference, *groups)
  sign = 1 if measure.about.higher_is_better else -1
  low, high = sorted((sign * difference.low, sign * difference.high))
  verdict = SHIP if low > -margin else WORSE if high < -margin else UNCLEAR
  return Verdict(
    verdict, measure, difference, margin, (len(runs), len(reference))
  )


def _values(runs, set_name, measure, documents):
  """Returns values [runs, n] by example, and the examples' weights."""
  columns = [
    measures.per_example(run, set_name, measure, documents) for run in runs
  ]
  return np.array([values for values, _ in columns]), columns[0][1]


def overall(verdicts: Sequence[Verdict]) -> str | None:
  """Returns the overall verdict; None without any.

  It is WORSE if any verdict is WORSE, else SHIP if any verdict is SHIP.
  """
  said = {verdict.verdict for verdict in verdicts}
  for verdict in (WORSE, SHIP, UNCLEAR):
    if verdict in said:
      return verdict
  return None


def check(verdict: str | None, fail_on: str, title: str, path: str) -> None:
  """Raises VerdictError if benchmark.fail_on includes the verdict.

  Args:
    verdict: the overall verdict.
    fail_on: value of benchmark.fail_on.
    title: title of the reference, for the message.
    path: path of the benchmark, for the message.
  """
  if verdict in FAILURES[fail_on]:
    raise VerdictError(
      f'verdict: {verdict}, compared with {title} (benchmark.fail_on is '
      f'{fail_on!r}); see {path}'
    )
