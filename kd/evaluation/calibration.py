"""Computes calibration: how often a model is right when it is confident.

The model's most likely token is right or wrong, and its probability is the
confidence. Tokens are collected in bins of equal width of the confidence. The
expected calibration error is the mean, over tokens, of the difference between
confidence and share of right tokens in their bin (arXiv 1706.04599).
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from kd.evaluation import intervals
from kd.evaluation import results
from kd.losses import eval_sums

_KINDS = ('tokens', 'confidence', 'hits')

# Columns of scores by name, a number for each example.
Columns = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Bin:
  """The tokens whose confidence is in one bin.

  Attributes:
    tokens: their number, weighted.
    confidence: the mean probability of the model's most likely token.
    accuracy: the share of tokens that were right.
  """

  tokens: float
  confidence: float
  accuracy: float


def columns(sums: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the columns of scores that hold eval_sums' [n, BINS, 3]."""
  return {
    _column(number, kind): sums[:, number, place]
    for number in range(eval_sums.BINS)
    for place, kind in enumerate(_KINDS)
  }


def _column(number, kind):
  return f'bin_{number:02}/{kind}'


def is_in(scores: Columns) -> bool:
  """Returns whether scores have the columns of bins."""
  return _column(0, _KINDS[0]) in scores


def bins(scores: Columns) -> list[Bin | None]:
  """Returns the bins, by confidence; None for one without tokens.

  Args:
    scores: with the columns.
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
  """Returns the expected calibration error, with its interval.

  It is a sum of absolute values, so the bootstrap's interval lies somewhat high
  where examples are few.

  Args:
    scores: with the columns and 'weight'.
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
  return intervals.sum_of_sizes(gaps, sums['weight'])
