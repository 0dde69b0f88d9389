"""State in the host's memory: the same updates, and it stays there."""

import jax
import jax.numpy as jnp
import numpy as np

from kd.config import base
from kd.optimizers import optimizers

_PARAMS = ({'matrix': jnp.ones((3, 4))}, {})


def _three(memory):
  lr = base.schedule('constant', peak=1e-2, warmup_steps=0)
  spec = base.adamw(lr, state_memory=memory).to_dict()
  optimizer, _ = optimizers.build(spec, 10)
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
    seen.append(np.asarray(updates[0]['matrix']))
  kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state) if x.ndim}
  return np.stack(seen), kinds


def test_updates_are_the_same_and_state_stays_on_the_host():
  near, _ = _three('device')
  far, kinds = _three('host')
  np.testing.assert_array_equal(near, far)
  assert kinds == {'pinned_host'}
