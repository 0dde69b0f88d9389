"""A batch for the update tests."""

import numpy as np

from kd.core import types


def batch(vocab_size: int) -> types.Batch:
  """Returns four rows of six random ids, all of them targets."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(4, vocab_size, (2, 4, 6)).astype(np.int32)
  ones = np.ones((4, 6), np.int32)
  return types.Batch(
    tokens=tokens[0],
    targets=tokens[1],
    positions=np.arange(6, dtype=np.int32) * ones,
    segment_ids=ones,
    parts=0 * ones,
    weights=ones.astype(np.float32),
    row_id=np.arange(4, dtype=np.int32),
  )
