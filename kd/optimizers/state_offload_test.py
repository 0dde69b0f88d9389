"""State in the host's memory stays there, and updates are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.config import base
from kd.optimizers import optimizer_cases
from kd.optimizers import optimizers

_PARAMS = jax.tree.map(lambda x: jnp.ones(x.shape), optimizer_cases.SHAPES)


def _three(build_spec, memory):
  lr = base.schedule('constant', peak=1e-2, warmup_steps=0)
  spec = build_spec(lr, state_memory=memory).to_dict()
  optimizer, _ = optimizers.build(spec, 10, optimizer_cases.groups())
  kind = optimizer.memory_kind

  def place(x):
    here = x.sharding.with_memory_kind(kind if x.ndim else None)
    return jax.device_put(x, here)

  state = jax.tree.map(place, optimizer.init(_PARAMS))
  step = jax.jit(optimizer.update)
  seen = []
  for slope in (1.0, -2.0, 3.0):
    gradients = jax.tree.map(lambda x, by=slope: by * x, _PARAMS)
    updates, state = step(gradients, state, _PARAMS, finite=True)
    seen.append(np.asarray(updates[0]['embedding']))
  kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state) if x.ndim}
  return np.stack(seen), kinds


@pytest.mark.parametrize('build_spec', [base.adamw, base.muon])
def test_offloading_keeps_updates_equal_and_state_on_the_host(build_spec):
  near, _ = _three(build_spec, 'device')
  far, kinds = _three(build_spec, 'host')
  np.testing.assert_array_equal(near, far)
  assert kinds == {'pinned_host'}
