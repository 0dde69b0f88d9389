"""Sharded parameters and rows give the answers of one device."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs import models
from kd.models import gemma3
from kd.models import gemma3_config
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.sampling import decode


def test_eight_devices_equal_one():
  config = dataclasses.replace(
    gemma3_config.from_variant('nano', models.VARIANTS, 'variant'),
    layer_kinds=('local', 'global', 'local'),
    window=8,
  )
  model = gemma3.build(config, 'float32', 'none', 'student')
  rng = np.random.default_rng(0)
  shapes = nn.unbox(gemma3.abstract_params(model))
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), shapes
  )
  prompts = [rng.integers(3, 260, n).tolist() for n in (3, 20, 9, 14, 5)]
  # 260 of the 264 rows are the tokenizer's: the last shard holds some of each.
  decoder = decode.Decoder(model, 260, (1, 5), 0, 12, batch_size=4)
  one = decoder.generate(params, prompts)

  mesh = mesh_lib.make({'data': 2, 'fsdp': 2, 'tensor': 2}, jax.devices())
  shardings = rules.param_shardings(
    mesh, gemma3.logical_axes(model), shapes, 'student'
  )
  placed = jax.device_put(params, shardings)
  assert not placed['embedding'].sharding.is_fully_replicated
  with rules.active(mesh):
    eight = decoder.generate(placed, prompts)
  assert eight == one
  # Without the mesh's rules the compiler chooses; answers stay the same.
  assert decoder.generate(placed, prompts) == one
