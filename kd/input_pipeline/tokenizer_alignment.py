"""Aligns two tokenizations of one text by the bytes of their tokens.

An aligned span is a minimal range of bytes that begins and ends at a token
boundary in both tokenizations (a chunk in arXiv 2503.20083). Tokens with equal
ranges form a span, so a tokenization aligned with itself has one span per
token.
"""

from collections.abc import Iterable, Sequence

import numpy as np


def ends(tokens: Iterable[bytes]) -> np.ndarray:
  """Returns the end of each token in bytes: int64 [n]."""
  return np.cumsum([len(token) for token in tokens], dtype=np.int64)


def spans(
  first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the aligned span of each token of two tokenizations.

  Args:
    first: [n], end of each token, in ascending order; see `ends`. Negative ends
      are not matched with the other tokenization.
    second: [m], likewise for the other tokenization.

  Returns:
    int64 [n] and [m], index of each token's span in the order of the text, from
    0.

  Raises:
    ValueError: the tokenizations do not end at the same byte.
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
