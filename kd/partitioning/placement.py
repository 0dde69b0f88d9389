"""Places the rows of a batch on the devices of several processes."""

import functools
import math

import jax
from jax.experimental import multihost_utils
import numpy as np

from kd.core import types
from kd.partitioning import rules


def local_rows(mesh: jax.sharding.Mesh, batch_size: int) -> np.ndarray:
  """Returns the indices of the batch rows on this process's devices.

  Args:
    mesh: the devices of all processes.
    batch_size: B, rows over all processes.

  Returns:
    int64 [rows], ascending. Several processes have the same rows if an axis
    other than the batch is split between them.
  """
  sharding = rules.batch_sharding(mesh)
  places = sharding.addressable_devices_indices_map((batch_size,))
  rows = np.arange(batch_size)
  return np.unique(np.concatenate([rows[index] for index in places.values()]))


def place(
  tree: types.PyTree, mesh: jax.sharding.Mesh, batch_size: int
) -> types.PyTree:
  """Places this process's rows on its devices as part of the global batch.

  Args:
    tree: numpy arrays with the rows of `local_rows`, in order.
    mesh: the devices of all processes.
    batch_size: B, rows over all processes.

  Returns:
    The same tree of global arrays with B rows.
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
  """Copies global arrays to devices of this process only.

  Returns before the copies are complete. A later program that overwrites `tree`
  waits for them.

  Args:
    tree: arrays, each on any devices.
    shardings: the target sharding of each array.
  """

  def one(x, sharding):
    if not x.is_fully_addressable:
      # One array at a time: each is temporarily replicated on every device.
      x = _laid_out(rules.replicated(x.sharding.mesh))(x).addressable_data(0)
    return jax.device_put(x, sharding)

  return jax.tree.map(one, tree, shardings)


@functools.cache
def _laid_out(sharding):
  return jax.jit(lambda x: x, out_shardings=sharding)


def across(
  tree: types.PyTree, sharding: jax.sharding.NamedSharding
) -> types.PyTree:
  """Copies arrays to another mesh of the same processes.

  Processes do not communicate: each copies its own rows between its own
  devices. Returns before the copies are complete.

  Args:
    tree: arrays on one mesh; `split_alike` holds for both meshes.
    sharding: the target sharding, on another mesh.
  """
  mesh, spec = sharding.mesh, sharding.spec

  def one(x):
    if x.is_fully_addressable:
      return jax.device_put(x, sharding)
    source = x.sharding.mesh
    own = multihost_utils.global_array_to_host_local_array(
      _laid_out(jax.sharding.NamedSharding(source, spec))(x), source, spec
    )
    own = jax.device_put(own, jax.sharding.NamedSharding(mesh.local_mesh, spec))
    return multihost_utils.host_local_array_to_global_array(own, mesh, spec)

  return jax.tree.map(one, tree)


def process_indices(mesh: jax.sharding.Mesh) -> np.ndarray:
  """Returns the process index of each device, in the mesh's shape."""
  return np.vectorize(lambda device: device.process_index)(mesh.devices)


def split_alike(one: np.ndarray, other: np.ndarray) -> bool:
  """Returns whether each process has the same part of a batch on two meshes.

  The devices of each process must also be one block of either mesh.

  Args:
    one: process indices of a mesh, in the order of mesh.AXES.
    other: process indices of the other mesh, with the same processes.
  """
  rows = math.lcm(*(x.shape[0] * x.shape[1] for x in (one, other)))
  length = math.lcm(one.shape[3], other.shape[3])

  def part(indices, process):
    own = (indices == process).any(axis=(2, 4))  # Over tensor and pipeline.
    own = own.reshape(-1, own.shape[-1])
    own = own.repeat(rows // own.shape[0], axis=0)
    return own.repeat(length // own.shape[1], axis=1)

  return all(
    np.array_equal(part(one, process), part(other, process))
    and _is_block(one == process)
    and _is_block(other == process)
    for process in np.unique(one)
  )


def rows_are_apart(indices: np.ndarray) -> bool:
  """Returns whether no two processes have the same rows of a batch.

  Args:
    indices: process indices of a mesh, in the order of mesh.AXES.
  """
  indices = np.moveaxis(indices, -1, 0)  # Stages have different rows, too.
  by_rows = indices.reshape(math.prod(indices.shape[:3]), -1)
  return bool((by_rows == by_rows[:, :1]).all())


def _is_block(own):
  places = np.argwhere(own)
  return len(places) and np.prod(np.ptp(places, axis=0) + 1) == len(places)


def whole(x: types.Array, sharding: jax.sharding.NamedSharding) -> types.Array:
  """Copies an array to any devices of the same processes.

  Args:
    x: an array on any devices; each process temporarily has a full copy.
    sharding: the target sharding.
  """
  if x.is_fully_addressable:
    return jax.device_put(x, sharding)
  everywhere = _laid_out(rules.replicated(x.sharding.mesh))(x)
  own = np.asarray(everywhere.addressable_data(0))
  return jax.make_array_from_callback(x.shape, sharding, own.__getitem__)


def fetch(
  tree: types.PyTree, mesh: jax.sharding.Mesh, batch_size: int
) -> types.PyTree:
  """Returns this process's rows as numpy arrays; the inverse of `place`.

  Args:
    tree: arrays of B rows, sharded by rows only.
    mesh: the devices of all processes.
    batch_size: B, rows over all processes.
  """
  mine = local_rows(mesh, batch_size)
  rows = np.arange(batch_size)

  def one(x):
    local = np.empty((len(mine), *x.shape[1:]), x.dtype)
    for shard in x.addressable_shards:
      local[np.searchsorted(mine, rows[shard.index[0]])] = shard.data
    return local

  for leaf in jax.tree.leaves(tree):
    leaf.copy_to_host_async()
  return jax.tree.map(one, tree)
