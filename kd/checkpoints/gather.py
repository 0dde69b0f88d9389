"""Brings parameters to the host, one tensor of a file at a time."""

import jax
from jax.experimental import multihost_utils
import numpy as np

from kd.core import types
from kd.models import tensors as tensors_lib


def tensor(params: types.PyTree, t: tensors_lib.Tensor) -> np.ndarray:
  """Returns a tensor's parameter, of t.shape, on the host.

  With several processes all call this in the same order: each holds a part of
  the parameter.

  Args:
    params: the parameter tree, on host or devices.
    t: an entry of family.Family.tensors.
  """
  leaf = tensors_lib.leaf(params, t.path)
  if t.group is not None:
    leaf = leaf[t.group]
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    leaf = multihost_utils.process_allgather(leaf, tiled=True)
  return np.asarray(leaf)
