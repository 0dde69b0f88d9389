"""Adafactor without momentum (arXiv 1804.04235, algorithm 4)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd.core import schedules
from kd.core import types
from kd.optimizers import skip_nonfinite

Array = types.Array
ByParameter = Callable[[types.PyTree], types.PyTree]

_LEAST_SQUARE = 1e-30  # epsilon 1 of the paper, added to squared gradients
_LEAST_SCALE = 1e-3  # epsilon 2, the least root mean square of a parameter
# Least size of the second largest axis for factored second moments, as in T5.
_LEAST_FACTORED = 128


class State(NamedTuple):
  """Second moments.

  Attributes:
    count: int32 [], number of updates so far.
    rows: means over the largest axis of each parameter, kept with size 1; [1]
      where moments are not factored.
    columns: likewise, means over the second largest axis.
    full: unfactored moments of each parameter; [1] where they are factored.
  """

  count: Array
  rows: types.PyTree
  columns: types.PyTree
  full: types.PyTree


def _factored_axes(shape, is_stacked):
  """Returns the largest and second largest axes; None if not factored."""
  axes = sorted(range(int(is_stacked), len(shape)), key=lambda i: shape[i])
  if len(axes) < 2 or shape[axes[-2]] < _LEAST_FACTORED:
    return None
  return axes[-1], axes[-2]


def _rms(x, is_stacked):
  """Returns one root mean square per layer, broadcastable to x."""
  axes = tuple(range(int(is_stacked), x.ndim))
  return jnp.sqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True))


def adafactor(
  learning_rate: schedules.Schedule,
  decay_rate: float,
  clip_update: float,
  scale_by_parameter: bool,
  weight_decays: ByParameter,
  stacked: ByParameter,
) -> skip_nonfinite.Transformation:
  """Returns Adafactor with decoupled weight decay, as in AdamW.

  Args:
    learning_rate: learning rate by update.
    decay_rate: exponent of the decay of second moments, which is
      1 - t ** -decay_rate at update t.
    clip_update: largest root mean square of an update.
    scale_by_parameter: whether updates are relative to the root mean square of
      the parameter.
    weight_decays: function from parameters to a tree of their weight decays.
    stacked: function from parameters to a tree of bools, True for arrays that
      stack layers along their first axis. Each layer is updated separately.

  Returns:
    The transformation. Its `update` takes `finite`, bool [].
  """

  def init(params):
    is_stacked = stacked(params)

    def factor(which):
      def zeros(param, has_layers):
        axes = _factored_axes(param.shape, has_layers)
        if axes is None:
          return jnp.zeros(1, param.dtype)
        # A sum keeps the sharding of the remaining axes.
        return jnp.zeros_like(
          jax.eval_shape(
            lambda x: jnp.sum(x, axis=axes[which], keepdims=True), param
          )
        )

      return jax.tree.map(zeros, params, is_stacked)

    def full(param, has_layers):
      if _factored_axes(param.shape, has_layers):
        return jnp.zeros(1, param.dtype)
      return jnp.zeros_like(param)

    return State(
      jnp.zeros((), jnp.int32),
      factor(0),
      factor(1),
      jax.tree.map(full, params, is_stacked),
    )

  def update(gradients, state, params):
    decay = 1.0 - (state.count + 1.0) ** -decay_rate
    rate = jnp.asarray(learning_rate(state.count), jnp.float32)
    mean = lambda old, new: decay * old + (1 - decay) * new

    def one(gradient, rows, columns, full, param, weight_decay, has_layers):
      square = jnp.square(gradient) + _LEAST_SQUARE
      axes = _factored_axes(param.shape, has_layers)
      if axes is None:
        full = mean(full, square)
        step = gradient * jax.lax.rsqrt(full)
      else:
        largest, second = axes
        rows = mean(rows, jnp.mean(square, axis=largest, keepdims=True))
        columns = mean(columns, jnp.mean(square, axis=second, keepdims=True))
        share = rows / jnp.mean(rows, axis=second, keepdims=True)
        step = gradient * jax.lax.rsqrt(share) * jax.lax.rsqrt(columns)
      step /= jnp.maximum(1.0, _rms(step, has_layers) / clip_update)
      if scale_by_parameter:
        step *= jnp.maximum(_rms(param, has_layers), _LEAST_SCALE)
      if np.any(weight_decay):
        step += weight_decay * param
      return -rate * step, rows, columns, full

    results = jax.tree.map(
      one,
      gradients,
      state.rows,
      state.columns,
      state.full,
      params,
      weight_decays(params),
      stacked(params),
    )
    updates, *moments = (
      jax.tree.map(lambda _, r, i=i: r[i], gradients, results) for i in range(4)
    )
    return updates, State(optax.safe_increment(state.count), *moments)

  return skip_nonfinite.wrap(optax.GradientTransformation(init, update))
