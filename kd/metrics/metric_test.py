"""Metrics are numbers with a value for each example."""

import math

import numpy as np
import pytest

from kd.metrics import metric


def test_a_metric_is_the_weighted_mean_as_a_float():
  rng = np.random.default_rng(0)
  values, weights = rng.normal(size=50), rng.uniform(size=50)
  found = metric.Metric(values, weights, unit='%')
  assert isinstance(found, float)
  assert found == pytest.approx(np.average(values, weights=weights), rel=1e-12)
  assert metric.Metric(values) == pytest.approx(values.mean(), rel=1e-12)
  assert metric.Metric([2, 3], total=True) == 5
  assert math.isnan(metric.Metric([]))
  assert found.description.heading('x') == 'x, %'
  with pytest.raises(ValueError):
    metric.Metric([1.0, 2.0], [1.0])


def test_merged_metrics_equal_one_metric_of_all():
  one = metric.Metric([1, 2], [3, 0.5])
  two = metric.Metric([5])
  assert metric.join([one, two]) == metric.Metric([1, 2, 5], [3, 0.5, 1])
  assert metric.join([two, metric.Metric([5], higher_is_better=False)]) is None
