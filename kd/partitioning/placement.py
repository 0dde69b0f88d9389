"""Places the rows of a batch on the devices of several processes."""

import functools
import math

import jax
from jax.experimental import multihost_utils
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

  No process sends anything to another: each moves its own rows between its own
  devices. Returns before they are there.

  Args:
    tree: arrays on one mesh; `split_alike` holds for both meshes.
    sharding: where to copy them, on another mesh.
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
  """Returns the process of each device of a mesh, in the mesh's shape."""
  return np.vectorize(lambda device: device.process_index)(mesh.devices)


def split_alike(one: np.ndarray, other: np.ndarray) -> bool:
  """Returns whether each process has the same part of a batch on two meshes.

  It also has to be one block of either mesh.

  Args:
    one: process indices by the axes of mesh.AXES.
    other: likewise, of the same processes.
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


def _is_block(own):
  places = np.argwhere(own)
  return len(places) and np.prod(np.ptp(places, axis=0) + 1) == len(places)


def whole(x: types.Array, sharding: jax.sharding.NamedSharding) -> types.Array:
  """Copies an array to any devices of the same processes.

  Args:
    x: an array on any devices; each process has all of it for a moment.
    sharding: where to copy it.
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
