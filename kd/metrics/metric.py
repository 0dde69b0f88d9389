"""Metrics with one value per example, as metric functions may return them."""

from collections.abc import Sequence
import dataclasses

from kd.core import registry

# Of functions (targets, predictions) -> numbers or Metric by name, which score
# the answers of any task, by the names in evaluation.metrics.
METRICS = registry.Registry('metric')


@dataclasses.dataclass(frozen=True)
class Description:
  """How people read a metric.

  Attributes:
    title: what a table calls it; '' for the metric's name.
    unit: after the title, such as 'nats per token'; '' for none.
    higher_is_better: the direction in which models improve.
    total: whether the metric is the sum over the examples, not their mean.
    diagnostic: whether it explains other metrics; a table leaves it out where
      it is 0 for all models.
  """

  title: str = ''
  unit: str = ''
  higher_is_better: bool = True
  total: bool = False
  diagnostic: bool = False

  def heading(self, name: str) -> str:
    """Returns the title with the unit, for a metric of this name."""
    return ', '.join(filter(None, (self.title or name, self.unit)))


class Metric(float):
  """The mean, or the sum, of one value per example.

  It is a float, so seqio and all that reads numbers read it too. Evaluation
  takes confidence intervals from its values and the rest from its description.

  Attributes:
    values: [n], one per example, in the order of the examples.
    weights: [n], the weight of each example; None if all weigh the same.
    description: how people read it.
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
      weights: [n], not negative; None if all weigh the same.
      **description: the fields of Description.

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
  """Returns a metric over the examples of several; None if they are unlike.

  Args:
    metrics: at least one, all of one name.
  """
  descriptions = {m.description for m in metrics}
  if len(descriptions) != 1:
    return None
  weights = None
  if any(m.weights is not None for m in metrics):
    weights = sum((m.weights or (1.0,) * len(m.values) for m in metrics), ())
  values = sum((m.values for m in metrics), ())
  return Metric(values, weights, **dataclasses.asdict(descriptions.pop()))
