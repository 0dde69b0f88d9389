"""Shardings of an optimizer's state on several devices."""

import jax
import numpy as np

from kd.config import base
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib
from kd.optimizers import optimizers
from kd.partitioning import mesh as mesh_lib
from kd.train import update

Spec = jax.sharding.PartitionSpec


def test_adafactors_factors_are_split_like_their_parameters():
  mesh = mesh_lib.make({'data': 1, 'fsdp': 4, 'tensor': 2}, jax.devices()[:8])
  place = lambda *axes: jax.sharding.NamedSharding(mesh, Spec(*axes))
  params = {
    'pattern': {
      'w': jax.ShapeDtypeStruct(
        (2, 256, 128), np.float32, sharding=place(None, 'fsdp', 'tensor')
      )
    },
    'scale': jax.ShapeDtypeStruct((256,), np.float32, sharding=place('fsdp')),
  }
  lr = base.schedule('constant', peak=1e-3, warmup_steps=0)
  optimizer, _ = optimizers.build(base.adafactor(lr).to_dict(), 10)
  context = terms_lib.Context(steps=10, student=None, teacher=None)
  terms = term_builder.build(
    {'ce': base.term('cross_entropy').to_dict()}, context
  )
  objective = objective_lib.Objective(terms, selection.everywhere(), 64)
  abstract = update.abstract_state(params, objective, optimizer, mesh)
  found = {
    (leaf.shape, leaf.sharding.spec)
    for leaf in jax.tree.leaves(abstract.opt_state)
    if leaf.ndim and leaf.shape != (1,)
  }
  assert found == {
    ((2, 1, 128), Spec(None, None, 'tensor')),
    ((2, 256, 1), Spec(None, 'fsdp', None)),
    ((256,), Spec('fsdp')),
  }
  # An update does not change them.
  concrete = jax.tree.map(
    lambda x: jax.device_put(np.ones(x.shape, x.dtype), x.sharding), params
  )
  state = jax.device_put(
    optimizer.init((concrete, {})),
    jax.tree.map(lambda x: x.sharding, abstract.opt_state),
  )

  @jax.jit
  def step(params, state):
    return optimizer.update((params, {}), state, (params, {}), finite=True)[1]

  new = step(concrete, state)
  for old, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(new)):
    assert leaf.sharding.is_equivalent_to(old.sharding, leaf.ndim), leaf.shape
