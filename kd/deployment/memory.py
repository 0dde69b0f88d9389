"""Computes the memory needed to serve a model, and the free memory."""

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
  """Memory of a running server, in bytes.

  Attributes:
    params: the parameters, used for prefill.
    decoding: the parameters in the form for decoding.
    cache: keys and values of all slots.
  """

  params: int
  decoding: int
  cache: int

  @property
  def total(self) -> int:
    """Returns the total."""
    return self.params + self.decoding + self.cache

  def times(self, count: int) -> 'Need':
    """Returns the memory of `count` such models."""
    return Need(*(count * x for x in dataclasses.astuple(self)))


def needed(
  config: family.Config, dtype: str, max_batch: int, max_length: int
) -> Need:
  """Returns the memory of a server, without programs and their scratch memory.

  Args:
    config: the config of the model.
    dtype: data type of the computation.
    max_batch: maximum number of answers at a time.
    max_length: maximum number of tokens of a prompt and its answer.
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
  """Returns the free bytes of the devices; on CPU, those of the host.

  Returns None if the system does not report them.
  """
  if devices[0].platform == 'cpu':
    return host_memory.free_bytes()
  stats = [device.memory_stats() or {} for device in devices]
  if not all('bytes_limit' in x for x in stats):
    return None
  return sum(x['bytes_limit'] - x.get('bytes_in_use', 0) for x in stats)
