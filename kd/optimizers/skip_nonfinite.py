"""Optimizers that skip nonfinite updates."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd.core import schedules
from kd.core import types

Transformation = optax.GradientTransformationExtraArgs


def wrap(transformation: optax.GradientTransformation) -> Transformation:
  """Returns a transformation whose `update` also takes `finite`, bool [].

  The old and the new state are briefly in memory together.
  """

  def update(gradients, state, params, *, finite, **arguments):
    del arguments
    updates, new_state = transformation.update(gradients, state, params)
    keep = lambda new, old: jnp.where(finite, new, old)
    return (
      jax.tree.map(lambda u: jnp.where(finite, u, 0.0), updates),
      jax.tree.map(keep, new_state, state),
    )

  return Transformation(transformation.init, update)


def adamw(
  learning_rate: schedules.Schedule,
  b1: float,
  b2: float,
  epsilon: float,
  weight_decays: Callable[[types.PyTree], types.PyTree],
) -> Transformation:
  """Returns AdamW (arXiv 1711.05101) that reuses the old state's buffers.

  It computes what optax.adamw computes. There, the compiler computes updates
  from the old moments while it writes the new ones, and so copies all moments
  and parameters first, which takes three times the parameters' memory.

  Args:
    learning_rate: learning rate by update.
    b1: decay of the gradient's mean.
    b2: decay of the squared gradient's mean.
    epsilon: number added to the root of that mean.
    weight_decays: function from parameters to a tree of their weight decays.

  Returns:
    The transformation. Its `update` takes `finite`, bool [].
  """

  def init(params):
    zeros = lambda: jax.tree.map(jnp.zeros_like, params)
    count = jnp.zeros((), jnp.int32)
    return optax.ScaleByAdamState(count, zeros(), zeros())

  def update(gradients, state, params, *, finite, **arguments):
    del arguments
    count = state.count + finite
    mean = lambda decay: (
      lambda old, new: jnp.where(finite, decay * old + (1 - decay) * new, old)
    )
    squares = jax.tree.map(jnp.square, gradients)
    mu = jax.tree.map(mean(b1), state.mu, gradients)
    nu = jax.tree.map(mean(b2), state.nu, squares)
    # Below, only the new moments may be read: the old buffers are reused.
    mu, nu = jax.lax.optimization_barrier((mu, nu))
    rate = jnp.where(finite, learning_rate(state.count), 0.0)
    number = jnp.maximum(count, 1).astype(jnp.float32)
    mu_scale, nu_scale = 1 / (1 - b1**number), 1 / (1 - b2**number)

    def step(m, v, param, weight_decay):
      change = m * mu_scale / (jnp.sqrt(v * nu_scale) + epsilon)
      if np.any(weight_decay):
        change += weight_decay * param
      return -rate * change

    updates = jax.tree.map(step, mu, nu, params, weight_decays(params))
    return updates, optax.ScaleByAdamState(count, mu, nu)

  return Transformation(init, update)
