"""Builds the optimizer of a config."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kd.core import errors
from kd.core import registry
from kd.core import schedules
from kd.core import types
from kd.models import layer_stack
from kd.optimizers import adafactor as adafactor_lib
from kd.optimizers import skip_nonfinite
from kd.optimizers import state_offload

OPTIMIZERS = registry.Registry('optimizer')
# Fields of `optimizer` that are no argument of the named builder.
COMMON = ('lr', 'clip_norm', 'micro_batches', 'state_memory')
# Where an optimizer's state lies between updates.
MEMORIES = ('device', 'host')


def decay_mask(params: types.PyTree) -> types.PyTree:
  """Returns True for parameters that weight decay shrinks: all but norms."""

  def decayed(path, leaf):
    del leaf
    return path[-1].key != 'scale'

  return jax.tree_util.tree_map_with_path(decayed, params)


def stacked_mask(params: types.PyTree) -> types.PyTree:
  """Returns True for parameters of several layers, along their first axis.

  These are the student's scanned layers and, in the pair (student, terms) that
  a run trains, what terms train: a projection for each pair of layers.
  """

  def stacked(path, leaf):
    del leaf
    is_term = path[0] == jax.tree_util.SequenceKey(1)
    return is_term or layer_stack.is_stacked(path)

  return jax.tree_util.tree_map_with_path(stacked, params)


@OPTIMIZERS.register('adamw')
def adamw(
  learning_rate, *, weight_decay: float, b1: float, b2: float, epsilon: float
) -> skip_nonfinite.Transformation:
  """Returns AdamW (arXiv 1711.05101)."""
  for name, value in (('b1', b1), ('b2', b2)):
    if not 0 <= value < 1:
      raise errors.ConfigError(name, f'found {value}', legal='[0, 1)')
  return skip_nonfinite.adamw(
    learning_rate, b1, b2, epsilon, weight_decay, decay_mask
  )


@OPTIMIZERS.register('adafactor')
def adafactor(
  learning_rate,
  *,
  weight_decay: float,
  decay_rate: float,
  clip_update: float,
  scale_by_parameter: bool,
) -> skip_nonfinite.Transformation:
  """Returns Adafactor (arXiv 1804.04235) without momentum."""
  if not clip_update > 0:
    raise errors.ConfigError(
      'clip_update', f'found {clip_update}', legal='above 0'
    )
  return adafactor_lib.adafactor(
    learning_rate,
    decay_rate,
    clip_update,
    scale_by_parameter,
    weight_decay,
    decay_mask,
    stacked_mask,
  )


def _clip(max_norm):
  """Scales gradients down to a global norm.

  By one factor, which the compiler fuses into what follows; the divisions of
  optax.clip_by_global_norm make it write all gradients once more.
  """

  def update(gradients, state, params=None):
    del params
    norm = optax.tree.norm(gradients)
    factor = max_norm / jnp.maximum(norm, max_norm)
    return jax.tree.map(lambda g: g * factor, gradients), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def build(
  spec: Mapping[str, Any], steps: int
) -> tuple[skip_nonfinite.Transformation, schedules.Schedule]:
  """Returns the optimizer and its learning rate.

  Args:
    spec: the config's `optimizer`.
    steps: updates of the whole run, the end of decays.

  Returns:
    The transformation, whose `update` takes bool [] `finite` and changes
    nothing where that is False, and the rate at update number 0, 1, ...

  Raises:
    ConfigError: a name, an argument or a value is not legal.
  """
  for key in ('name',) + COMMON:
    if key not in spec:
      raise errors.ConfigError(f'optimizer.{key}', 'missing')
  if not spec['clip_norm'] >= 0:
    raise errors.ConfigError(
      'optimizer.clip_norm', f'found {spec["clip_norm"]}', legal='0 or more'
    )
  if spec['state_memory'] not in MEMORIES:
    raise errors.unknown(
      'optimizer.state_memory', 'memory', spec['state_memory'], MEMORIES
    )
  rate = schedules.SCHEDULES.build(spec['lr'], 'optimizer.lr', steps)
  named = {k: v for k, v in spec.items() if k not in COMMON}
  transformation = OPTIMIZERS.build(named, 'optimizer', rate)
  if spec['clip_norm'] > 0:
    transformation = optax.chain(_clip(spec['clip_norm']), transformation)
  if spec['state_memory'] == 'host':
    transformation = state_offload.moved(transformation)
  return transformation, rate
