"""Aligns two tokenizations of one text by the bytes of their tokens.

An aligned span is a smallest range of bytes that begins and ends at a boundary
of tokens in both tokenizations: the chunks of arXiv 2503.20083. Tokens whose
ranges are equal are spans of their own, so that a tokenization aligned with
itself has one span for each token.
"""

from collections.abc import Iterable, Sequence

import numpy as np


def ends(tokens: Iterable[bytes]) -> np.ndarray:
  """Returns where each token ends: int64 [n], bytes before that place."""
  return np.cumsum([len(token) for token in tokens], dtype=np.int64)


def spans(
  first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the aligned span of each token of two tokenizations.

  Args:
    first: where each token ends, [n], rising; see `ends`. Places that mean
      nothing to the other tokenization are below 0.
    second: the same of the other tokenization, [m].

  Returns:
    int64 [n] and [m], the number of each token's span in the order of the text,
    from 0.

  Raises:
    ValueError: they do not end at the same byte.
  """
  first, second = np.asarray(first), np.asarray(second)
  if len(first) == 0 or len(second) == 0:
    if len(first) or len(second):
      raise ValueError('one of two tokenizations is empty')
    return np.zeros(0, np.int64), np.zeros(0, np.int64)
  if first[-1] != second[-1]:
    raise ValueError(f'texts of {first[-1]} and {second[-1]} bytes')
  common = np.intersect1d(first, second)
  common = common[common >= 0]
  return np.searchsorted(common, first), np.searchsorted(common, second)
