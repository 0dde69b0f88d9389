"""Builds the optimizer of a config."""

from collections.abc import Callable, Mapping
import dataclasses
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
from kd.optimizers import descent
from kd.optimizers import muon as muon_lib
from kd.optimizers import parameter_groups
from kd.optimizers import skip_nonfinite
from kd.optimizers import state_offload

OPTIMIZERS = registry.Registry('optimizer')
# Fields of `optimizer` that are not arguments of the named builder.
COMMON = (
  *('lr', 'clip_norm', 'micro_batches', 'state_memory'),
  *('layer_decay', 'groups'),
)
# Memories that can hold an optimizer's state between updates.
MEMORIES = ('device', 'host')


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """A gradient transformation, and the parameters that it trains.

  Attributes:
    init: function from the trained parameters to the initial state.
    update: function from (gradients, state, trained parameters) to (updates,
      state). It also takes `finite`, bool [], and changes nothing if that is
      False; and `grad_norm`, the norm to clip by, None for the norm of all
      gradients.
    groups: groups that select the trained parameters, and the factors on the
      learning rate with which the caller multiplies the updates.
    state_memory: memory of the state between updates, one of MEMORIES.
    ema_decay: decay of the average of the trained parameters; 0 for no average.
  """

  init: Callable[[types.PyTree], types.PyTree]
  update: Callable[..., tuple[types.PyTree, types.PyTree]]
  groups: parameter_groups.ParameterGroups
  state_memory: str
  ema_decay: float

  @property
  def memory_kind(self) -> str | None:
    """The memory kind of the state in shardings; None for the device's own."""
    return state_offload.KIND if self.state_memory == 'host' else None


def stacked_mask(params: types.PyTree) -> types.PyTree:
  """Returns a tree of bools, True for arrays that stack layers on axis 0.

  In the pair (student, terms) that a run trains, these are the student's
  scanned layers and the terms' projections, one for each pair of layers.
  """

  def stacked(path, leaf):
    del leaf
    is_term = path[0] == jax.tree_util.SequenceKey(1)
    return is_term or layer_stack.is_stacked(path)

  return jax.tree_util.tree_map_with_path(stacked, params)


@OPTIMIZERS.register('adamw')
def adamw(
  learning_rate,
  groups,
  *,
  weight_decay: float,
  b1: float,
  b2: float,
  epsilon: float,
) -> skip_nonfinite.Transformation:
  """Returns AdamW (arXiv 1711.05101)."""
  for name, value in (('b1', b1), ('b2', b2)):
    if not 0 <= value < 1:
      raise errors.ConfigError(name, f'found {value}', legal='[0, 1)')
  return skip_nonfinite.adamw(
    learning_rate, b1, b2, epsilon, _decays(groups, weight_decay)
  )


@OPTIMIZERS.register('adafactor')
def adafactor(
  learning_rate,
  groups,
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
    _decays(groups, weight_decay),
    stacked_mask,
  )


@OPTIMIZERS.register('lion')
def lion(
  learning_rate, groups, *, weight_decay: float, b1: float, b2: float
) -> skip_nonfinite.Transformation:
  """Returns Lion (arXiv 2302.06675)."""
  return descent.along(
    optax.scale_by_lion(b1, b2), learning_rate, _decays(groups, weight_decay)
  )


@OPTIMIZERS.register('muon')
def muon(
  learning_rate,
  groups,
  *,
  weight_decay: float,
  momentum: float,
  nesterov: bool,
  iterations: int,
  rms: float,
  b1: float,
  b2: float,
  epsilon: float,
) -> skip_nonfinite.Transformation:
  """Returns Muon for the matrices of layers, AdamW for other parameters."""
  direction = muon_lib.direction(
    lambda params: muon_lib.matrix_axes(groups.sizes, params),
    momentum,
    nesterov,
    iterations,
    rms,
    optax.scale_by_adam(b1, b2, epsilon),
  )
  return descent.along(direction, learning_rate, _decays(groups, weight_decay))


@OPTIMIZERS.register('sgd')
def sgd(
  learning_rate, groups, *, weight_decay: float, momentum: float, nesterov: bool
) -> skip_nonfinite.Transformation:
  """Returns stochastic gradient descent with momentum."""
  direction = optax.trace(momentum, nesterov) if momentum else optax.identity()
  return descent.along(direction, learning_rate, _decays(groups, weight_decay))


def _decays(groups, weight_decay):
  return lambda params: groups.weight_decays(params, weight_decay)


def _clip(max_norm):
  """Returns a transformation that scales gradients down to a global norm.

  It multiplies by one factor, which the compiler fuses into the next operation.
  The divisions of optax.clip_by_global_norm write all gradients once more.
  """

  def update(gradients, state, params=None, *, grad_norm=None, **arguments):
    del params, arguments
    norm = optax.tree.norm(gradients) if grad_norm is None else grad_norm
    factor = max_norm / jnp.maximum(norm, max_norm)
    return jax.tree.map(lambda g: g * factor, gradients), state

  return optax.GradientTransformationExtraArgs(
    lambda _: optax.EmptyState(), update
  )


def build(
  spec: Mapping[str, Any],
  steps: int,
  groups: parameter_groups.ParameterGroups = parameter_groups.ALL_TRAINED,
  ema_decay: float = 0.0,
) -> tuple[Optimizer, schedules.Schedule]:
  """Returns the optimizer and its learning rate.

  Args:
    spec: the config's `optimizer` section.
    steps: number of updates of the whole run, at which decays end.
    groups: groups of the parameters that it will train.
    ema_decay: decay of the average of the trained parameters; 0 for no average.

  Returns:
    The optimizer, and the learning rate by update 0, 1, ...

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
  transformation = OPTIMIZERS.build(named, 'optimizer', rate, groups)
  if spec['clip_norm'] > 0:
    transformation = optax.chain(_clip(spec['clip_norm']), transformation)
  if spec['state_memory'] == 'host':
    transformation = state_offload.moved(transformation)
  memory = spec['state_memory']
  return Optimizer(
    transformation.init, transformation.update, groups, memory, ema_decay
  ), rate
