"""Tests meshes over two TPU slices, compiled for TPUs that are absent.

This file is also the program that compiles, in a separate process: the tests'
environment has no libtpu.
"""

import json
import os
import re
import subprocess
import sys

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import errors
from kd.models import pipeline
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.planning import libtpu
from kd.planning.hlo import traffic

_P = jax.sharding.PartitionSpec


def _gradient(mesh):
  """Returns the compiled gradient of a product with weights sharded on fsdp."""

  def array(*spec):
    sharding = jax.sharding.NamedSharding(mesh, _P(*spec))
    return jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=sharding)

  inputs, weights = array(('data', 'fsdp')), array('fsdp')
  function = jax.grad(lambda w, x: jnp.sum((x @ w) ** 2))
  return jax.jit(function).lower(weights, inputs).compile().as_text()


def _stages(mesh):
  """Returns the compiled gradient of two layers in two stages."""

  def array(shape, *spec):
    sharding = jax.sharding.NamedSharding(mesh, _P(*spec))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

  def loss(w, x):
    stage = lambda number, w, x, rows: (jnp.tanh(x @ w[0]), ())
    return jnp.sum(pipeline.run(stage, w, x, (), 2)[0] ** 2)

  weights = array((2, 64, 64), 'pipeline', 'fsdp')
  inputs = array((32, 8, 64), ('pipeline', 'fsdp'))
  with rules.active(mesh):
    return jax.jit(jax.grad(loss)).lower(weights, inputs).compile().as_text()


def _compile():
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name='v5e:2x4', num_slices=2
  )
  mesh = mesh_lib.make({'data': 2, 'fsdp': -1}, topology.devices)
  text = _gradient(mesh)
  result = {
    'shape': dict(mesh.shape),
    'slices': [
      sorted({d.slice_index for d in block.flat}) for block in mesh.devices
    ],
    'groups': sorted(set(re.findall(r'replica_groups=(\S+?\}\})', text))),
    'crosses': 'xla_megascale_runtime' in text,
  }
  stages = mesh_lib.make({'pipeline': 2, 'fsdp': -1}, topology.devices)
  text = _stages(stages)
  result |= {
    'stages': [
      sorted({d.slice_index for d in block.flat})
      for block in np.moveaxis(stages.devices, -1, 0)
    ],
    'gathered by': sorted(set(re.findall(r'replica_groups=(\S+?\}\})', text))),
    'received': traffic.count(text, None).dcn,
  }
  try:
    mesh_lib.make({'data': 1, 'fsdp': -1}, topology.devices)
  except errors.ConfigError as e:
    result['refused'] = str(e)
  print(json.dumps(result))


@pytest.fixture(scope='module')
def compiled():
  root = os.getcwd()
  try:
    folder = libtpu.packages()
  except errors.ConfigError as e:
    pytest.skip(str(e))
  done = subprocess.run(
    [sys.executable, '-m', 'kd.planning.multislice_test'],
    env=libtpu.environment(root, folder),
    check=False,
    text=True,
    capture_output=True,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.split('\n')[-2])


def test_only_the_data_axis_spans_slices(compiled):
  ones = dict.fromkeys(mesh_lib.AXES, 1)
  assert compiled['shape'] == ones | {'data': 2, 'fsdp': 8}
  assert compiled['slices'] == [[0], [1]]
  # Parameters are gathered within a slice; gradients cross between them.
  assert compiled['groups'] == ['{{0,1,2,3,4,5,6,7}}']
  assert compiled['crosses']


def test_stages_send_activations_between_slices(compiled):
  assert compiled['stages'] == [[0], [1]]
  # Parameters are gathered and gradients summed within a slice.
  assert compiled['gathered by'] == ['{{0,1,2,3,4,5,6,7}}']
  # Rows of a part on a chip, at each tick, and their gradient.
  ticks, part = 3, 2 * 8 * 64 * 4
  assert compiled['received'] == 2 * ticks * part


def test_another_mesh_is_refused(compiled):
  message = compiled['refused']
  for words in ('mesh.data', 'found 1', '2 slices', 'a multiple of 2'):
    assert words in message, message


if __name__ == '__main__':
  _compile()
