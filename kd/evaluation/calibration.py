"""Computes calibration: how well a model's confidence predicts its accuracy.

The model's most likely token is right or wrong, and its probability is the
confidence. Tokens are grouped by confidence in bins of equal width. The
expected calibration error is the mean, over tokens, of the absolute difference
between mean confidence and accuracy of their bin (arXiv 1706.04599).
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from kd.evaluation import intervals
from kd.evaluation import results
from kd.losses import eval_sums

_KINDS = ('tokens', 'confidence', 'hits')

# Columns of scores by name, with one number per example.
Columns = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Bin:
  """The tokens with a confidence in one bin.

  Attributes:
    tokens: sum of the tokens' weights.
    confidence: mean probability of the model's most likely token.
    accuracy: share of tokens that were right.
  """

  tokens: float
  confidence: float
  accuracy: float


def columns(sums: np.ndarray) -> dict[str, np.ndarray]:
  """Splits eval_sums' calibration [n, BINS, 3] into columns of scores."""
  return {
    _column(number, kind): sums[:, number, place]
    for number in range(eval_sums.BINS)
    for place, kind in enumerate(_KINDS)
  }


def _column(number, kind):
  return f'bin_{number:02}/{kind}'


def is_in(scores: Columns) -> bool:
  """Returns whether the scores contain calibration columns."""
  return _column(0, _KINDS[0]) in scores


def bins(scores: Columns) -> list[Bin | None]:
  """Returns the bins by ascending confidence; None for empty bins.

  Args:
    scores: scores with calibration columns.
  """
  result: list[Bin | None] = []
  for number in range(eval_sums.BINS):
    tokens, confidence, hits = (
      float(np.sum(scores[_column(number, kind)])) for kind in _KINDS
    )
    bin_ = Bin(tokens, confidence / tokens, hits / tokens) if tokens else None
    result.append(bin_)
  return result


def error(scores: Columns) -> intervals.Interval:
  """Returns the expected calibration error with its interval.

  It is a sum of absolute values, so the bootstrap interval is biased upward for
  few examples.

  Args:
    scores: scores with calibration columns and 'weight'.
  """
  names = [
    _column(number, kind)
    for number in range(eval_sums.BINS)
    for kind in ('confidence', 'hits')
  ]
  sums = results.sum_by_document(
    {name: scores[name] for name in (*names, 'weight')},
    scores.get(results.DOCUMENT),
  )
  gaps = [
    (sums[_column(number, 'confidence')] - sums[_column(number, 'hits')])
    / sums['weight']
    for number in range(eval_sums.BINS)
  ]
  return intervals.sum_of_magnitudes(gaps, sums['weight'])
