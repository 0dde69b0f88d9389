"""Metrics with one value per example, which metric functions may return."""

from collections.abc import Sequence
import dataclasses

from kd.core import registry

# Metric functions by their names in evaluation.metrics. Each scores the answers
# of any task: (targets, predictions) -> numbers or Metrics by name.
METRICS = registry.Registry('metric')


@dataclasses.dataclass(frozen=True)
class Description:
  """Presentation of a metric to readers.

  Attributes:
    title: heading in tables; '' for the metric's name.
    unit: unit after the title, such as 'nats per token'; '' for none.
    higher_is_better: whether higher values are better.
    total: whether the metric is the sum over examples instead of their mean.
    diagnostic: whether it explains other metrics. Tables omit it where it is 0
      for all models.
  """

  title: str = ''
  unit: str = ''
  higher_is_better: bool = True
  total: bool = False
  diagnostic: bool = False

  def heading(self, name: str) -> str:
    """Returns the title, or else this name, with the unit."""
    return ', '.join(filter(None, (self.title or name, self.unit)))


class Metric(float):
  """The mean, or the sum, of one value per example.

  It is a float, so seqio and other readers of numbers accept it. Evaluation
  computes confidence intervals from its values.

  Attributes:
    values: [n], one per example, in the order of the examples.
    weights: [n], the weight of each example; None if all are equal.
    description: its presentation to readers.
  """

  values: tuple[float, ...]
  weights: tuple[float, ...] | None
  description: Description

  def __new__(
    cls,
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    **description,
  ):
    """Computes the metric; NaN for a mean of nothing.

    Args:
      values: [n], one per example.
      weights: [n], not negative; None if all are equal.
      **description: fields of Description.

    Raises:
      ValueError: the numbers of values and weights differ.
    """
    about = Description(**description)
    values = tuple(map(float, values))
    parts = values
    if weights is not None:
      weights = tuple(map(float, weights))
      parts = [w * x for w, x in zip(weights, values, strict=True)]
    whole = sum(weights) if weights is not None else len(values)
    if about.total:
      number = sum(parts)
    else:
      number = sum(parts) / whole if whole else float('nan')
    self = super().__new__(cls, number)
    self.values, self.weights, self.description = values, weights, about
    return self


def join(metrics: Sequence[Metric]) -> Metric | None:
  """Returns a metric over all examples; None if the descriptions differ.

  Args:
    metrics: at least one metric, all of one name.
  """
  descriptions = {m.description for m in metrics}
  if len(descriptions) != 1:
    return None
  weights = None
  if any(m.weights is not None for m in metrics):
    weights = sum((m.weights or (1.0,) * len(m.values) for m in metrics), ())
  values = sum((m.values for m in metrics), ())
  return Metric(values, weights, **dataclasses.asdict(descriptions.pop()))
