"""Grouped-query attention that never stores scores [B, N, L, L] of long rows.

Queries and keys are cut into blocks, and only the pairs of blocks in which a
query may see a key are computed: about half of all pairs in global layers, two
or three for each block of queries in local ones.
"""

import math

import jax
import jax.numpy as jnp

from kd.core import attention_mask
from kd.core import types
from kd.models.attention import blockwise_attention
from kd.models.attention import cudnn
from kd.models.attention import splash
from kd.partitioning import rules

Array = types.Array

XLA = 'xla'
SPLASH = 'splash'
CUDNN = 'cudnn'

# Rows of up to _SHORT positions are cut into slices of queries, which is
# fastest if memory suffices. Longer rows are cut into pairs of blocks. Sizes of
# slices and blocks are in positions.
_SHORT = 1024
_SLICES = 4
_SMALLEST_SLICE = 64
_BLOCK = 512


def dense(
  query: Array, key: Array, value: Array, seen: Array, scale: float
) -> Array:
  """Computes attention with all scores at once.

  Args:
    query: [B, L, N, H].
    key: [B, M, G, H].
    value: [B, M, G, H].
    seen: bool [B, L, M], whether each query sees each key.
    scale: multiplier of scores.

  Returns:
    [B, L, N, H].
  """
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    mask=seen[:, None],
    scale=scale,
    implementation='xla',
  )


def causal(
  query: Array,
  key: Array,
  value: Array,
  mask: attention_mask.AttentionMask,
  scale: float,
  kernel: str,
) -> Array:
  """Computes attention within rows.

  Args:
    query: [B, L, N, H].
    key: [B, L, G, H].
    value: [B, L, G, H].
    mask: the keys that queries see.
    scale: multiplier of scores.
    kernel: XLA runs anywhere and cuts rows depending on their length; SPLASH
      and CUDNN are kernels for TPU and GPU. CUDNN needs rows of one text each.

  Returns:
    [B, L, N, H].
  """
  if kernel == SPLASH:
    return splash.attend(query, key, value, mask, scale, interpret=False)
  if kernel == CUDNN:
    return cudnn.attend(query, key, value, mask.window, scale, CUDNN)
  length = query.shape[1]
  if recomputes_scores(length) or rules.shards('length', length) > 1:
    return blockwise_attention.attend(query, key, value, mask, scale, _BLOCK)
  return in_slices(query, key, value, mask, scale, _slice_size(length))


def recomputes_scores(length: int) -> bool:
  """Returns whether gradients of `causal` recompute the scores."""
  return length > _SHORT


def pairs_computed(length: int, window: int | None) -> int:
  """Returns the number of query-key pairs of a row that `causal` scores.

  Masked pairs count too, if they share a block with visible ones.
  """
  mask = attention_mask.AttentionMask(None, window)
  if recomputes_scores(length):
    return (
      blockwise_attention.pairs(mask, length, _BLOCK, 1).key.size * _BLOCK**2
    )
  slices = _slices(mask, length, _slice_size(length))
  return sum(
    (stop - start) * (keys.stop - keys.start) for start, stop, keys in slices
  )


def _slice_size(length):
  return max(_SMALLEST_SLICE, math.ceil(length / _SLICES))


def _slices(mask, length, size):
  """Yields start and stop of each slice of queries, and the keys they see."""
  for start in range(0, length, size):
    stop = min(start + size, length)
    first = max(0, start - mask.reach(length))
    yield start, stop, slice(first, min(stop + mask.lookahead, length))


def in_slices(
  query: Array,
  key: Array,
  value: Array,
  mask: attention_mask.AttentionMask,
  scale: float,
  size: int,
) -> Array:
  """Computes `causal` for `size` queries at a time, with the keys they see.

  The slices' scores are stored for gradients.
  """
  attended = []
  for start, stop, keys in _slices(mask, query.shape[1], size):
    seen = attention_mask.visible(
      mask.row.part(start, stop - start),
      mask.row.part(keys.start, keys.stop - keys.start),
      mask.window,
    )
    attended.append(
      dense(query[:, start:stop], key[:, keys], value[:, keys], seen, scale)
    )
  return jnp.concatenate(attended, axis=1)
