"""The memory that serving a model needs, and the memory that is free."""

import dataclasses
import math
from typing import Any

import jax

from kd.core import host_memory
from kd.core import types
from kd.models import families
from kd.models import family


@dataclasses.dataclass(frozen=True)
class Need:
  """Bytes that a server holds as long as it runs.

  Attributes:
    params: the parameters, which prompts are read with.
    decoding: the same as decoding reads them.
    cache: keys and values of all slots.
  """

  params: int
  decoding: int
  cache: int

  @property
  def total(self) -> int:
    """Returns the sum."""
    return self.params + self.decoding + self.cache

  def times(self, count: int) -> 'Need':
    """Returns what this many models of these sizes need."""
    return Need(*(count * x for x in dataclasses.astuple(self)))


def needed(
  config: family.Config, dtype: str, max_batch: int, max_length: int
) -> Need:
  """Returns what a server needs, without programs and their scratch memory.

  Args:
    config: the model.
    dtype: data type of the computation.
    max_batch: answers at a time.
    max_length: tokens of a prompt and its answer.
  """
  module = families.build(config, dtype, 'none', 'serve.dtype')
  params = module.abstract_params()
  decoding = jax.eval_shape(module.decoding_weights, params)
  cache = jax.eval_shape(lambda: module.empty_cache(max_batch, max_length))
  return Need(*map(_bytes, (params, decoding, cache)))


def _bytes(tree: types.PyTree) -> int:
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def free(devices: list[Any]) -> int | None:
  """Returns the free bytes of the devices; on CPUs those of the host.

  None where the system does not tell.
  """
  if devices[0].platform == 'cpu':
    return host_memory.free_bytes()
  stats = [device.memory_stats() or {} for device in devices]
  if not all('bytes_limit' in x for x in stats):
    return None
  return sum(x['bytes_limit'] - x.get('bytes_in_use', 0) for x in stats)
