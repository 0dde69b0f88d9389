"""Places the rows of a batch on the devices of several processes."""

import functools

import jax
import numpy as np

from kd.core import types
from kd.partitioning import rules


def local_rows(mesh: jax.sharding.Mesh, batch_size: int) -> np.ndarray:
  """Returns which rows of a batch this process's devices hold and it reads.

  Args:
    mesh: the devices of all processes.
    batch_size: rows over all of them, B.

  Returns:
    int64 [rows], rising. Processes hold the same rows where a mesh splits
    something else between them.
  """
  sharding = rules.batch_sharding(mesh)
  places = sharding.addressable_devices_indices_map((batch_size,))
  rows = np.arange(batch_size)
  return np.unique(np.concatenate([rows[index] for index in places.values()]))


def place(
  tree: types.PyTree, mesh: jax.sharding.Mesh, batch_size: int
) -> types.PyTree:
  """Puts this process's rows on its devices, as part of the whole batch.

  Args:
    tree: numpy arrays whose rows are those that local_rows names, in order.
    mesh: the devices of all processes.
    batch_size: rows over all of them, B.

  Returns:
    The same tree of arrays with B rows.
  """
  sharding, mine = rules.batch_sharding(mesh), local_rows(mesh, batch_size)
  rows = np.arange(batch_size)

  def one(x):
    def part(index):
      return x[(np.searchsorted(mine, rows[index[0]]), *index[1:])]

    shape = (batch_size, *x.shape[1:])
    return jax.make_array_from_callback(shape, sharding, part)

  return jax.tree.map(one, tree)


def copy(tree: types.PyTree, shardings: types.PyTree) -> types.PyTree:
  """Copies arrays of all processes to devices of this one alone.

  Returns before they are there: what overwrites `tree` later waits for it.

  Args:
    tree: arrays, each on any devices.
    shardings: where to copy each of them.
  """

  def one(x, sharding):
    if not x.is_fully_addressable:
      # One array at a time: each is whole on every device for a moment.
      x = _whole(rules.replicated(x.sharding.mesh))(x).addressable_data(0)
    return jax.device_put(x, sharding)

  return jax.tree.map(one, tree, shardings)


@functools.cache
def _whole(sharding):
  return jax.jit(lambda x: x, out_shardings=sharding)


def fetch(
  tree: types.PyTree, mesh: jax.sharding.Mesh, batch_size: int
) -> types.PyTree:
  """Returns this process's rows as numpy arrays; the inverse of `place`.

  Args:
    tree: arrays of B rows, split over devices by rows alone.
    mesh: as for `place`.
    batch_size: as for `place`.
  """
  mine = local_rows(mesh, batch_size)
  rows = np.arange(batch_size)

  def one(x):
    found = np.empty((len(mine), *x.shape[1:]), x.dtype)
    for shard in x.addressable_shards:
      found[np.searchsorted(mine, rows[shard.index[0]])] = shard.data
    return found

  for leaf in jax.tree.leaves(tree):
    leaf.copy_to_host_async()
  return jax.tree.map(one, tree)
