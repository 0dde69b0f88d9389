"""Tests splash attention and offloading, compiled for absent TPUs.

This file is also the program that compiles, in a separate process: the tests'
environment has no libtpu.
"""

import json
import math
import os
import subprocess
import sys

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import optax
import pytest

from kd.config import base
from kd.core import attention_mask
from kd.models import families
from kd.models.attention import attention
from kd.models.gemma3 import config as gemma3_config
from kd.optimizers import optimizers
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.planning import libtpu

_ROWS, _LENGTH = 8, 4096
_SHORT = 1024  # For offloading, of which attention is no part.
_QUERIES, _KEYS = 4, 1  # Heads of 256, as in 1B.
_MESHES = {
  'fsdp': {'data': 1, 'fsdp': 8},
  'all': {'data': 1, 'fsdp': 2, 'tensor': 2, 'sequence': 2},
}
_SMALL = gemma3_config.Gemma3Config(
  embed_dim=512,
  mlp_dim=1024,
  num_heads=2,
  num_kv_heads=1,
  head_dim=128,
  vocab_size=4096,
  layer_kinds=(gemma3_config.LOCAL,) * 4,
  window=512,
  context=_SHORT,
  query_scale=128.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)
_WINDOWS = {'local': 512, 'global': None}
# Each mesh and each window once: compiling takes long.
_COMPILED = (('fsdp', 'global'), ('all', 'local'))


def _program(kernel, window):
  def attended(query, key, value, places):
    mask = attention_mask.AttentionMask(places, window)
    out = attention.causal(query, key, value, mask, 1 / 16, kernel)
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
    attention_mask.Positions(ids, ids),
  )


def _on_host(mesh, function, *arguments):
  """Returns bytes per chip of host memory that a program uses."""
  with rules.active(mesh):
    memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
  return memory.host_temp_size_in_bytes + memory.host_argument_size_in_bytes


def _gradient(remat):
  model = families.build(_SMALL, 'bfloat16', remat, '')

  def loss(params, ids):
    hidden, _ = model.apply({'params': params}, ids, ids, ids)
    return hidden.astype(jnp.float32).sum()

  return model, jax.grad(loss)


def _offloaded(mesh):
  """Returns bytes in host memory by remat policy and of optimizer state."""
  results = {}
  ids = jax.ShapeDtypeStruct(
    (_ROWS, _SHORT), jnp.int32, sharding=rules.batch_sharding(mesh)
  )
  for remat in ('block', 'block_offload', 'dots_offload'):
    model, gradient = _gradient(remat)
    shapes = model.abstract_params()
    places = rules.param_shardings(mesh, model.logical_axes(), shapes, '')
    params = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      places,
    )
    results[remat] = _on_host(mesh, gradient, params, ids)
  lr = base.schedule('constant', peak=1e-4, warmup_steps=0)
  spec = base.adamw(lr, state_memory='host').to_dict()
  optimizer, _ = optimizers.build(spec, 1)
  far = lambda x: jax.ShapeDtypeStruct(
    x.shape,
    x.dtype,
    sharding=x.sharding.with_memory_kind(optimizer.memory_kind),
  )
  state = optax.tree_map_params(
    optimizer,
    lambda _, param: far(param),
    jax.eval_shape(optimizer.init, params),
    params,
  )
  update = lambda g, s, p: optimizer.update(g, s, p, finite=True)
  results['moments'] = _on_host(mesh, update, params, state, params)
  results['parameters'] = sum(
    x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
    for x in jax.tree.leaves(params)
  )
  return results


def _compile(stream):
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name='v5e:2x4'
  )
  mesh = mesh_lib.make(_MESHES['fsdp'], topology.devices)
  results = {'host': _offloaded(mesh)}
  for place, sizes in _MESHES.items():
    mesh = mesh_lib.make(sizes, topology.devices)
    for kind in (k for p, k in _COMPILED if p == place):
      function = _program(attention.SPLASH, _WINDOWS[kind])
      with rules.active(mesh):
        compiled = function.lower(*_arguments(mesh)).compile()
      text = compiled.as_text()
      phases = ('fwd', 'dq', 'dkv')
      results[f'{place} {kind}'] = {
        'kernels': [p for p in phases if f'splash_mha_{p}_segmented' in text],
        'temporaries': compiled.memory_analysis().temp_size_in_bytes,
      }
  print(json.dumps(results), file=stream, flush=True)


@pytest.fixture(scope='module')
def results():
  root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
  done = subprocess.run(
    # As a script, this folder's libtpu.py would hide the package.
    [sys.executable, '-m', 'kd.planning.long_context_slow_test'],
    check=True,
    text=True,
    stdout=subprocess.PIPE,
    env=libtpu.environment(root, libtpu.packages()),
  )
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(('place', 'kind'), _COMPILED)
def test_kernels_of_both_passes_are_in_the_program(results, place, kind):
  program = results[f'{place} {kind}']
  assert program['kernels'] == ['fwd', 'dq', 'dkv']
  scores = 4 * _ROWS * _QUERIES * _LENGTH**2 // 8  # In float32, of one chip.
  assert program['temporaries'] < scores / 4


def test_offloaded_arrays_are_in_host_memory(results):
  host_bytes = results['host']
  assert host_bytes['block'] == 0
  # Each layer's input, [1, L, D] in bfloat16.
  inputs = _SMALL.num_layers * _SHORT * _SMALL.embed_dim * 2
  assert inputs <= host_bytes['block_offload'] < 1.5 * inputs
  assert host_bytes['dots_offload'] > inputs
  moments = 2 * host_bytes['parameters']
  assert moments <= host_bytes['moments'] < 1.5 * moments


if __name__ == '__main__':
  # libtpu prints to both streams; the parent reads one of them.
  _STREAM = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)
  _compile(_STREAM)
