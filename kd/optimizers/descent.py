"""Makes optimizers of optax's directions: rate, weight decay, no bad step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd.core import schedules
from kd.core import types
from kd.optimizers import skip_nonfinite


class State(NamedTuple):
  """The state of `along`.

  Attributes:
    count: int32 [], updates so far.
    direction: the direction's state.
  """

  count: types.Array
  direction: types.PyTree


def along(
  direction: optax.GradientTransformation,
  learning_rate: schedules.Schedule,
  weight_decays: Callable[[types.PyTree], types.PyTree],
) -> skip_nonfinite.Transformation:
  """Returns steps of -rate x (direction + weight decay x parameter).

  Args:
    direction: from gradients to directions.
    learning_rate: by update.
    weight_decays: from parameters to a tree of their weight decays.

  Returns:
    The transformation; its `update` takes bool [] `finite`.
  """

  def init(params):
    return State(jnp.zeros((), jnp.int32), direction.init(params))

  def update(gradients, state, params):
    directions, new = direction.update(gradients, state.direction, params)
    rate = jnp.asarray(learning_rate(state.count), jnp.float32)

    def step(change, param, weight_decay):
      if np.any(weight_decay):
        change += weight_decay * param
      return -rate * change

    updates = jax.tree.map(step, directions, params, weight_decays(params))
    return updates, State(optax.safe_increment(state.count), new)

  return skip_nonfinite.gated(optax.GradientTransformation(init, update))
