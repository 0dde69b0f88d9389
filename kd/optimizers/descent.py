"""Adds a learning rate and weight decay to optax's update directions."""

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
    count: int32 [], number of updates so far.
    direction: state of the transformation that computes the direction.
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
    direction: transformation of gradients to directions.
    learning_rate: learning rate by update.
    weight_decays: function from parameters to a tree of their weight decays.

  Returns:
    The transformation. Its `update` takes `finite`, bool [].
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

  return skip_nonfinite.wrap(optax.GradientTransformation(init, update))
