"""Tests that sharded parameters and rows give the answers of one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from kd.models import families
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.sampling import engine
from kd.sampling import requests


def test_eight_devices_equal_one():
  config = dataclasses.replace(
    families.variant('nano', 'variant'),
    layer_kinds=('local', 'global', 'local'),
    window=8,
  )
  model = families.build(config, 'float32', 'none', 'student')
  rng = np.random.default_rng(0)
  shapes = model.abstract_params()
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), shapes
  )
  asked = [
    requests.Request(tuple(rng.integers(3, 260, n).tolist()), n, 2)
    for n in (3, 20, 9, 14, 5)
  ]
  settings = dataclasses.replace(
    requests.greedy(12), temperature=1.0, top_p=0.95, repetition_penalty=1.1
  )
  # 260 of the 264 rows are the tokenizer's: the last shard holds some of each.
  words = engine.Vocabulary(260, (1, 5), 0, str)
  sampler = engine.Engine(model, words, batch_size=4)
  one = sampler.generate(params, asked, settings)

  mesh = mesh_lib.make({'data': 2, 'fsdp': 2, 'tensor': 2}, jax.devices())
  shardings = rules.param_shardings(
    mesh, model.logical_axes(), shapes, 'student'
  )
  placed = jax.device_put(params, shardings)
  assert not placed['embedding'].sharding.is_fully_replicated
  with rules.active(mesh):
    eight = sampler.generate(placed, asked, settings)
  _check_equal(eight, one)
  # Without the mesh's rules the compiler chooses; answers stay the same.
  _check_equal(sampler.generate(placed, asked, settings), one)


def _check_equal(found, wanted):
  for pair in zip(sum(found, []), sum(wanted, []), strict=True):
    assert pair[0].ids == pair[1].ids
    assert pair[0].finish == pair[1].finish
    np.testing.assert_allclose(pair[0].logprobs, pair[1].logprobs, atol=1e-4)
