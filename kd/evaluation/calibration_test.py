"""Tests the calibration error against its definition, by token."""

import numpy as np
import pytest

from kd.evaluation import calibration
from kd.evaluation import likelihood
from kd.evaluation import measures
from kd.evaluation import results
from kd.losses import eval_sums

_SET = 'held_out'


def test_error_and_bins_of_tokens():
  rng = np.random.default_rng(0)
  example = np.repeat(np.arange(20), rng.integers(1, 30, 20))
  confidence = rng.uniform(0.1, 1, len(example)) ** 0.5
  hits = rng.uniform(size=len(example)) < confidence**2  # Too confident.
  weights = rng.uniform(0.5, 2, len(example))
  place = np.minimum((confidence * 15).astype(int), 14)
  sums = np.zeros((20, eval_sums.BINS, 3))
  for token in range(len(example)):
    sums[example[token], place[token]] += weights[token] * np.array(
      [1, confidence[token], hits[token]]
    )
  scores = calibration.columns(sums)
  scores['weight'] = np.bincount(example, weights)
  expected = 0.0
  for number, bin_ in enumerate(calibration.bins(scores)):
    of = place == number
    assert (bin_ is None) == (not of.any())
    if bin_ is None:
      continue
    share = np.average(hits[of], weights=weights[of])
    mean = np.average(confidence[of], weights=weights[of])
    assert bin_.tokens == pytest.approx(weights[of].sum())
    assert (bin_.confidence, bin_.accuracy) == pytest.approx((mean, share))
    expected += weights[of].sum() / weights.sum() * abs(share - mean)
  error = calibration.error(scores)
  assert error.value == pytest.approx(expected, rel=1e-12)
  assert 0.05 < error.low < expected < error.high

  # The table and the metric have the same value.
  scores['nll'] = scores['weight']
  summary = likelihood.summarize(scores)
  assert summary['ece'] == error.value
  columns = {key: value.tolist() for key, value in scores.items()}
  named = {f'eval/{_SET}/{key}': value for key, value in summary.items()}
  result = results.Result(named, {_SET: columns}, [], {})
  ece = next(m for m in measures.of(result, _SET) if m.metric == measures.ECE)
  assert measures.value(result, _SET, ece) == error
