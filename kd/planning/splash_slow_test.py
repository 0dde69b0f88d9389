"""Splash attention and its gradient, compiled for TPUs that need not be there.

The file is also the program that compiles, in a process of its own: libtpu is
no part of the tests' environment.
"""

import json
import os
import subprocess
import sys

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import pytest

from kd.models import attention
from kd.models import visibility
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.planning import libtpu

_ROWS, _LENGTH = 8, 4096
_QUERIES, _KEYS = 4, 1  # Heads of 256, as in 1B.
_MESHES = {
  'fsdp': {'data': 1, 'fsdp': 8},
  'all': {'data': 1, 'fsdp': 2, 'tensor': 2, 'sequence': 2},
}
_WINDOWS = {'local': 512, 'global': None}


def _program(kernel, window):
  def attended(query, key, value, places):
    sight = visibility.Sight(places, window)
    out = attention.causal(query, key, value, sight, 1 / 16, kernel)
    return out.astype(jnp.float32).sum()

  return jax.jit(jax.grad(attended, (0, 1, 2)))


def _arguments(mesh):
  rows = rules.batch_sharding(mesh)

  def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct((_ROWS, _LENGTH, *shape), dtype, sharding=rows)

  ids = array(dtype=jnp.int32)
  return (
    array(_QUERIES, 256),
    *(array(_KEYS, 256),) * 2,
    visibility.Places(ids, ids),
  )


def _compile(stream):
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name='v5e:2x4'
  )
  found = {}
  for place, sizes in _MESHES.items():
    mesh = mesh_lib.make(sizes, topology.devices)
    for kind, window in _WINDOWS.items():
      function = _program(attention.SPLASH, window)
      with rules.active(mesh):
        compiled = function.lower(*_arguments(mesh)).compile()
      text = compiled.as_text()
      phases = ('fwd', 'dq', 'dkv')
      found[f'{place} {kind}'] = {
        'kernels': [p for p in phases if f'splash_mha_{p}_segmented' in text],
        'temporaries': compiled.memory_analysis().temp_size_in_bytes,
      }
  print(json.dumps(found), file=stream, flush=True)


@pytest.fixture(scope='module')
def found():
  root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
  done = subprocess.run(
    # By its path, this folder's libtpu.py would hide the package.
    [sys.executable, '-m', 'kd.planning.splash_slow_test'],
    check=True,
    text=True,
    stdout=subprocess.PIPE,
    env=libtpu.environment(root, libtpu.packages()),
  )
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('kind', list(_WINDOWS))
@pytest.mark.parametrize('place', list(_MESHES))
def test_kernels_of_both_passes_are_in_the_program(found, place, kind):
  one = found[f'{place} {kind}']
  assert one['kernels'] == ['fwd', 'dq', 'dkv']
  scores = 4 * _ROWS * _QUERIES * _LENGTH**2 // 8  # In float32, of one chip.
  assert one['temporaries'] < scores / 4


if __name__ == '__main__':
  # libtpu prints to both streams; the parent reads one of them.
  _STREAM = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)
  _compile(_STREAM)
