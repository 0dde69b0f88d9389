"""Divides the examples of a set into slices and computes retention.

Retention is the share of the teacher's quality that a student has. For scores
where higher is better, such as exact match, it is the ratio of the scores,
student over teacher. For the NLL it is the ratio of the perplexities, teacher
over student. It is 1 for a student as good as its teacher, and may be larger.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from kd.benchmarking import places as places_lib
from kd.core import errors
from kd.evaluation import intervals
from kd.evaluation import measures
from kd.evaluation import results
from kd.input_pipeline import examples as examples_lib
from kd.run import resolved
from kd.train import evaluate

LENGTH = 'length'
_MOST = 20  # number of most frequent values of a field that are shown


@dataclasses.dataclass(frozen=True)
class Slice:
  """A subset of the examples of a set.

  Attributes:
    field: field by which the set is divided; '' for the whole set.
    value: value of the field.
    rows: indices of the scored rows, among those of the set.
    answers: indices of the answers, among those of the set.
  """

  field: str
  value: str
  rows: Sequence[int]
  answers: Sequence[int]

  @property
  def title(self) -> str:
    """Returns the title for tables."""
    return f'{self.field} {self.value}' if self.field else 'all'


def of(
  run: resolved.Run, held_out: evaluate.HeldOut, result: results.Result
) -> list[Slice]:
  """Returns the slices for benchmark.slices, after one with the whole set.

  Args:
    run: the run.
    held_out: the held-out set.
    result: any model's result on it, with the scores of a benchmark.
  """
  places = places_lib.of(run, held_out, result)
  slices = [Slice('', '', range(len(places.rows)), range(len(places.answers)))]
  for field in run.config.benchmark.slices:
    if field == LENGTH:
      values = _lengths(places, result.scores[held_out.name]['weight'])
    else:
      values = _field(run, held_out, places, field)
    slices += _divided(field, values, places)
  return slices


def _lengths(places, weights) -> list[str | None]:
  """Returns each example's range of target tokens, between powers of 2."""
  tokens = np.bincount(
    places.rows, weights=weights, minlength=len(places.examples)
  )
  return [_range(round(x)) for x in tokens]


def _range(tokens):
  if tokens < 1:
    return None  # The example has no row.
  low = 1 << (tokens.bit_length() - 1)
  return f'{low}' if low == 1 else f'{low} to {2 * low - 1}'


def check_fields(run: resolved.Run, held_out: evaluate.HeldOut) -> None:
  """Raises ConfigError if no example of a set has a field of the slices."""
  for field in run.config.benchmark.slices:
    if field != LENGTH and not any(_values(run, held_out, field).values()):
      raise errors.ConfigError(
        'benchmark.slices',
        f'found {field!r}, which no example of {held_out.name!r} has',
        legal=f'{LENGTH!r}, or a field of the examples',
      )


def _values(run, held_out, field) -> dict[str, dict[str, str]]:
  """Returns a field's values as text, by task and example id."""
  split = run.config.evaluation.sets[held_out.name].split
  return {
    task.name: examples_lib.column(task, split, field)
    for task, _ in examples_lib.tasks(held_out.mixture, split)
  }


def _field(run, held_out, places, field) -> list[str | None]:
  """Returns the value of a field for each example."""
  by_task = _values(run, held_out, field)
  return [
    by_task[task].get(example['id'])
    for task, example in zip(places.tasks, places.examples, strict=True)
  ]


def _divided(field, values, places) -> list[Slice]:
  """Returns a slice for each value, ordered by its leading number if any."""
  counts: dict[str, int] = {}
  for value in values:
    if value is not None:
      counts[value] = counts.get(value, 0) + 1
  most = sorted(counts, key=lambda v: -counts[v])[:_MOST]
  return [
    Slice(
      field,
      value,
      [i for i, n in enumerate(places.rows) if values[n] == value],
      [i for i, n in enumerate(places.answers) if values[n] == value],
    )
    for value in sorted(most, key=_order)
  ]


def _order(value):
  number = value.split(' ')[0]
  return (0, int(number), value) if number.isdecimal() else (1, 0, value)


def retained(
  student: results.Result,
  teacher: results.Result,
  set_name: str,
  measure: measures.Measure,
  chosen: Slice,
) -> intervals.Interval | None:
  """Returns the share of the teacher's quality that a student has.

  Args:
    student: the student's result.
    teacher: the teacher's result, on the same examples.
    set_name: name of the held-out set.
    measure: one of `compared`.
    chosen: the slice.

  Returns:
    The share; None if the slice has no such score, or the teacher's is 0.
  """
  numbers = chosen.rows if measure.by_token else chosen.answers
  columns = [x.scores[set_name] for x in (student, teacher)]
  name = measure.metric
  if not all(name in x for x in columns):
    return None
  numbers = [i for i in numbers if all(x[name][i] is not None for x in columns)]
  if not numbers:
    return None
  own, others = (np.array([x[name][i] for i in numbers]) for x in columns)
  weight = 'weight' if measure.by_token else results.weight_of(name)
  weights = None
  if weight in columns[0]:
    weights = np.array([columns[0][weight][i] for i in numbers])
  if measure.by_token:
    documents = columns[0].get(results.DOCUMENT)
    sums = results.sum_by_document(
      {'own': own, 'others': others, 'weight': weights},
      documents and [documents[i] for i in numbers],
    )
    weights = sums['weight']
    own, others = sums['own'] / weights, sums['others'] / weights
  if measure.metric == measures.NLL:
    return intervals.difference(others, own, weights).map(math.exp)
  return intervals.ratio(own, others, weights)


def compared(result: results.Result, set_name: str) -> list[measures.Measure]:
  """Returns the measures for which retention is computed."""
  return [
    m
    for m in measures.of(result, set_name)
    if m.metric == measures.NLL
    or (m.is_main and m.about.higher_is_better and not m.about.total)
  ]
