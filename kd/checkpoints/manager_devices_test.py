"""Tests saving on eight devices and reading on one and two: equal bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.checkpoints import manager
from kd.partitioning import mesh as mesh_lib

SPEC = jax.sharding.PartitionSpec('fsdp', 'tensor')


def _sharding(shape, devices):
  mesh = mesh_lib.make(dict(zip(mesh_lib.AXES, shape, strict=False)), devices)
  return jax.sharding.NamedSharding(mesh, SPEC)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('saved'))
  value = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
  placed = jax.device_put(value, _sharding((1, 4, 2), jax.devices()))
  saving = manager.Manager(folder, 1)
  items = {'params': {'w': placed}, 'optimizer': {'n': jnp.zeros(())}}
  saving.save(1, items, {}, None)
  saving.close()
  return folder, value


@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 2, 1), (1, 1, 2)])
def test_other_meshes_read_the_same_bits(shape, saved):
  folder, value = saved
  sharding = _sharding(shape, jax.devices()[: np.prod(shape)])
  like = {'w': jax.ShapeDtypeStruct((16, 6), jnp.float32, sharding=sharding)}
  reading = manager.Manager(folder, 1, read_only=True)
  got, _ = reading.restore(1, {'params': like})
  assert got['params']['w'].sharding == sharding
  np.testing.assert_array_equal(got['params']['w'], value)
