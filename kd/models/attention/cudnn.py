"""cuDNN's flash attention on GPUs, for rows of one text each."""

import jax

from kd.core import types
from kd.models.attention import repeat_kv
from kd.partitioning import rules

Array = types.Array
_Names = jax.sharding.PartitionSpec


def widest_head(capability: float) -> int:
  """Returns the widest head for GPUs of a compute capability, or 0."""
  if capability >= 9:
    return 256
  return 128 if capability >= 8 else 0


def attend(
  query: Array,
  key: Array,
  value: Array,
  window: int | None,
  scale: float,
  implementation: str,
) -> Array:
  """Computes attention within rows of one text each, followed by padding.

  Queries of the text do not see padding, which comes later. The results at
  padding are meaningless.

  Args:
    query: [B, L, N, H].
    key: [B, L, G, H].
    value: [B, L, G, H].
    window: maximum number of keys that a query sees, including its own; None
      for all.
    scale: multiplier of scores.
    implementation: implementation of jax.nn.dot_product_attention: 'cudnn', or
      'xla', which runs anywhere.

  Returns:
    [B, L, N, H].
  """
  key, value = repeat_kv.for_each_part(key, value, query.shape[2])

  def each(query, key, value):
    return jax.nn.dot_product_attention(
      query,
      key,
      value,
      scale=scale,
      is_causal=True,
      local_window_size=None if window is None else (window - 1, 0),
      implementation=implementation,
    )

  names = _Names('batch', None, 'heads')
  return rules.map_shards(each, (names,) * 3, names)(query, key, value)
