"""Splash attention, the TPU kernel for masks that are known in advance.

Blocks whose scores are all masked are skipped, and scores never leave the
chip's fast memory.
"""

import functools

import jax
from jax.experimental.pallas.ops.tpu import splash_attention as masks
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as library,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask_info as plans,
)
import jax.numpy as jnp

from kd.core import attention_mask
from kd.core import types
from kd.models.attention import repeat_kv
from kd.partitioning import rules

Array = types.Array
_Names = jax.sharding.PartitionSpec

# Numbers of positions in a block, of which the largest that divides a device's
# queries is used. Queries are padded to a multiple of the smallest, the width
# of a TPU's registers.
_BLOCKS = (512, 256, 128)

# Matmuls over queries, keys and head width in the kernels of the backward pass:
# three for the gradient of queries, four for those of keys and values.
BACKWARD_PRODUCTS = 7


def suits(width: int) -> bool:
  """Returns whether heads of this width fill the TPU's registers."""
  return width % _BLOCKS[-1] == 0


def attend(
  query: Array,
  key: Array,
  value: Array,
  mask: attention_mask.AttentionMask,
  scale: float,
  interpret: bool,
) -> Array:
  """Computes attention within rows; see attention.causal.

  Queries are split over devices by row, position and head, keys and values only
  by row and head. Queries are scaled instead of scores, as in Google's own
  code, which is exact if `scale` is a power of two.

  Args:
    query: [B, L, N, H].
    key: [B, L, G, H].
    value: [B, L, G, H].
    mask: the keys that queries see.
    scale: multiplier of scores.
    interpret: whether the kernels are interpreted, which works on any device.

  Returns:
    [B, L, N, H], also finite at padding.
  """
  length, count = query.shape[1:3]
  shards = rules.shards('length', length)
  block = block_size(length, shards)

  def laid_out(x):
    """Converts [B, L, n, H] to [B, n, padded L, H]."""
    return jnp.swapaxes(_padded(x, block * shards), 1, 2)

  key, value = repeat_kv.for_each_part(key, value, count)
  query, key, value = (laid_out(x) for x in (query * scale, key, value))
  ids = _padded(mask.row.segment_ids, block * shards)
  kernel = _kernel(
    query.shape[2],
    mask.window,
    count // rules.shards('heads', count),
    shards,
    block,
    interpret,
  )

  def each(kernel, query, key, value, query_ids, key_ids):
    return jax.vmap(kernel)(
      query, key, value, library.SegmentIds(query_ids, key_ids)
    )

  of_queries = _Names('batch', 'heads', 'length')
  of_keys = _Names('batch', 'heads')
  out = rules.map_shards(
    each,
    (
      _kernel_names(kernel),
      of_queries,
      of_keys,
      of_keys,
      _Names('batch', 'length'),
      _Names('batch'),
    ),
    of_queries,
  )(kernel, query, key, value, ids, ids)
  return jnp.swapaxes(out, 1, 2)[:, :length]


def block_size(length: int, shards: int) -> int:
  """Returns the size of a block, for rows that are split into `shards`."""
  smallest = _BLOCKS[-1]
  own = -(-length // (smallest * shards)) * smallest
  return next(block for block in _BLOCKS if own % block == 0)


def _padded(x, multiple):
  """Appends zeros to x [B, L, ...]; a segment id of 0 is padding."""
  padding = [(0, 0), (0, -x.shape[1] % multiple)] + [(0, 0)] * (x.ndim - 2)
  return jnp.pad(x, padding)


@functools.lru_cache(maxsize=16)  # Planning blocks takes seconds in long rows.
def _kernel(length, window, count, shards, block, interpret):
  """Returns the library's kernel for `count` heads and rows of shards x blocks.

  Segments have no gaps, so that the distance of two tokens of a segment in the
  row is the difference of their positions.
  """
  shape = (length, length)
  if window is None:
    mask = masks.CausalMask(shape)
  else:
    mask = masks.LocalMask(shape, (window - 1, 0), 0)
  sizes = library.BlockSizes(
    block_q=block,
    block_kv=block,
    block_q_dkv=block,
    block_kv_dkv=block,
    block_q_dq=block,
    block_kv_dq=block,
  )
  heads_mask = masks.MultiHeadMask([mask] * count)
  shares = dict(head_shards=1, q_seq_shards=shards)
  # The function of the mask is the same for all kernels.
  forward, function = plans.process_mask(heads_mask, (block, block), **shares)
  keys, _ = plans.process_mask_dkv(heads_mask, (block, block), **shares)
  return library.SplashAttentionKernel(
    forward,
    forward,
    keys,
    block_sizes=sizes,
    is_mqa=False,
    save_residuals=False,
    mask_value=library.DEFAULT_MASK_VALUE,
    attn_logits_soft_cap=None,
    residual_checkpoint_name=None,
    mask_function=function,
    interpret=interpret,
  )


def _kernel_names(kernel):
  """Returns axes of the kernel's arrays, split by queries or their blocks."""
  by_rank = {3: _Names(None, 'length'), 1: _Names('length')}
  return jax.tree.map(lambda x: by_rank[x.ndim], kernel)
