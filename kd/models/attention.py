"""Grouped-query attention that never holds scores [B, N, L, L] of long rows.

Queries and keys are cut into blocks, and of all pairs of blocks only those are
computed in which a query may see a key: about half of them in global layers,
two or three for each block of queries in local ones.
"""

import math

import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import attention_mask
from kd.models import blockwise_attention
from kd.models import cudnn
from kd.models import splash
from kd.partitioning import rules

Array = types.Array

XLA = 'xla'
SPLASH = 'splash'
CUDNN = 'cudnn'

# Rows up to this length are cut into slices of queries, which is fastest where
# memory is no question; longer ones into pairs of blocks. Both in positions.
_SHORT = 1024
_SLICES = 4
_SMALLEST_SLICE = 64
_BLOCK = 512


def dense(
  query: Array, key: Array, value: Array, seen: Array, scale: float
) -> Array:
  """Attention with all scores at once.

  Args:
    query: [B, L, N, H].
    key: [B, M, G, H].
    value: [B, M, G, H].
    seen: bool [B, L, M], see attention_mask.mask.
    scale: scores are multiplied by it.

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
  sight: attention_mask.AttentionMask,
  scale: float,
  kernel: str,
) -> Array:
  """Attention within rows.

  Args:
    query: [B, L, N, H].
    key: [B, L, G, H].
    value: [B, L, G, H].
    sight: what queries see.
    scale: scores are multiplied by it.
    kernel: XLA computes it in the way that suits the rows' length; SPLASH and
      CUDNN are kernels for TPU and GPU. CUDNN needs rows of one text each.

  Returns:
    [B, L, N, H].
  """
  if kernel == SPLASH:
    return splash.attend(query, key, value, sight, scale, interpret=False)
  if kernel == CUDNN:
    return cudnn.attend(query, key, value, sight.window, scale, CUDNN)
  length = query.shape[1]
  if makes_scores_anew(length) or rules.parts('length', length) > 1:
    return blockwise_attention.attend(query, key, value, sight, scale, _BLOCK)
  return in_slices(query, key, value, sight, scale, _slice_size(length))


def makes_scores_anew(length: int) -> bool:
  """Whether gradients of `causal` compute the scores once more."""
  return length > _SHORT


def pairs_computed(length: int, window: int | None) -> int:
  """For how many query-key pairs of a row `causal` computes a score.

  Those that are hidden count too, where they share a block with others.
  """
  sight = attention_mask.AttentionMask(None, window)
  if makes_scores_anew(length):
    return (
      blockwise_attention.pairs(sight, length, _BLOCK, 1).key.size * _BLOCK**2
    )
  slices = _slices(sight, length, _slice_size(length))
  return sum((stop - start) * (stop - first) for start, stop, first in slices)


def _slice_size(length):
  return max(_SMALLEST_SLICE, math.ceil(length / _SLICES))


def _slices(sight, length, size):
  """Where slices of queries start and stop, and the first key of each."""
  for start in range(0, length, size):
    yield start, min(start + size, length), max(0, start - sight.reach(length))


def in_slices(
  query: Array,
  key: Array,
  value: Array,
  sight: attention_mask.AttentionMask,
  scale: float,
  size: int,
) -> Array:
  """See causal: `size` queries at a time, each slice with the keys it needs.

  Gradients keep the slices' scores.
  """
  attended = []
  for start, stop, first in _slices(sight, query.shape[1], size):
    keys = slice(first, stop)
    seen = attention_mask.mask(
      sight.places.part(start, stop - start),
      sight.places.part(first, stop - first),
      sight.window,
    )
    attended.append(
      dense(query[:, start:stop], key[:, keys], value[:, keys], seen, scale)
    )
  return jnp.concatenate(attended, axis=1)
