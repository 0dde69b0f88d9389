"""Gathers parameters on the host, one tensor of a file at a time."""

from collections.abc import Iterator, Sequence

import jax
from jax.experimental import multihost_utils
import numpy as np

from kd.core import types
from kd.models import tensors as tensors_lib
from kd.partitioning import processes


def each(
  params: types.PyTree, tensors: Sequence[tensors_lib.Tensor]
) -> Iterator[tuple[tensors_lib.Tensor, np.ndarray]]:
  """Yields tensors with their values on the host.

  All processes must call this and exhaust it, since each has a part of the
  parameters. They wait for process 0, which may write the file, after each
  tensor.

  Args:
    params: the parameter tree, on host or devices.
    tensors: entries of family.Family.tensors.

  Yields:
    Each tensor and its array, with shape tensor.shape.
  """
  for tensor in tensors:
    yield tensor, _on_host(params, tensor)
    # Waits here, as waiting in the next gather would time out.
    processes.from_first(lambda: None)


def _on_host(params: types.PyTree, tensor: tensors_lib.Tensor) -> np.ndarray:
  leaf = tensors_lib.leaf(params, tensor.path)
  return on_host(leaf if tensor.group is None else leaf[tensor.group])


def on_host(leaf: np.ndarray | jax.Array) -> np.ndarray:
  """Returns an array on the host; all processes must call this."""
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    leaf = multihost_utils.process_allgather(leaf, tiled=True)
  return np.asarray(leaf)
