"""Runs a model's layers, those of whole periods as one scanned program.

Only this file defines the locations of layers' parameters in the tree. Those of
scanned layers are stacked, with one entry for each period along the first axis.
The layers after the last whole period have separate arrays.
"""

from collections.abc import Callable
import itertools
import re
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import family
from kd.models import pipeline
from kd.models import taps
from kd.models import tensors
from kd.partitioning import rules

# Keys in the parameter tree: scanned layers, and the layers after them.
_SCANNED, _REST = 'pattern', 'remainder'
# Keys of the stacked layers of a vision tower.
_TOWER = 'vision', 'tower', 'layers'

# Flax's collection for the results of layer_measures.
MEASURED = 'measured'

# Name of the value that rematerialization saves.
LAYER_INPUT = 'layer_input'

# By name of `student.remat`. Values of each layer that are saved for the
# backward pass, in this order: all; its input; its input and matmul outputs;
# its input, in host memory; its input, and matmul outputs in host memory.
REMAT_POLICIES = {
  'none': None,
  'block': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'block_offload': (
    jax.checkpoint_policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[],
      names_which_can_be_offloaded=[LAYER_INPUT],
      offload_src='device',
      offload_dst='pinned_host',
    )
  ),
  'dots_offload': (
    jax.checkpoint_policies.offload_dot_with_no_batch_dims(
      'device', 'pinned_host'
    )
  ),
}


def location(config: family.Config, layer: int) -> tensors.Location:
  """Returns the location of a layer's parameters.

  Args:
    config: the model.
    layer: the layer's index.

  Returns:
    Keys into the parameter tree, and the index along the first axis of the
    arrays, None if they are not stacked.
  """
  group, position = divmod(layer, config.scan_period)
  if group < config.scan_groups:
    return (_SCANNED, f'layer_{position}'), group
  return (_REST, f'layer_{position}'), None


def params_of(
  config: family.Config, params: types.PyTree, layer: int
) -> types.PyTree:
  """Returns the parameters of one layer."""
  keys, group = location(config, layer)
  own = tensors.leaf(params, keys)
  return own if group is None else jax.tree.map(lambda x: x[group], own)


def paths(config: family.Config, keys: tuple[Any, ...]) -> tuple[str, ...]:
  """Returns a parameter's path as users see it, such as layers.3.mlp.gate.

  Args:
    config: the model.
    keys: keys of the parameter, from jax.tree_util or as text.

  Returns:
    One path, or one for each layer along the first axis.
  """
  root, *names = (jax.tree_util.keystr((key,), simple=True) for key in keys)
  if (root, *names[:2]) == _TOWER:
    rest = names[2:]
    layers = range(config.vision.num_layers)
    return tuple('.'.join((*_TOWER, str(i), *rest)) for i in layers)
  if root not in (_SCANNED, _REST):
    return ('.'.join((root, *names)),)
  position = int(names[0].removeprefix('layer_'))
  scanned = config.scan_groups * config.scan_period
  layers = (scanned + position,)
  if root == _SCANNED:
    layers = range(position, scanned, config.scan_period)
  return tuple('.'.join(('layers', str(i), *names[1:])) for i in layers)


def matches(expression: str, path: str) -> bool:
  """Returns whether an expression matches a path, or its prefix up to a dot.

  Args:
    expression: a regular expression.
    path: as from `paths`.
  """
  beginnings = itertools.accumulate(path.split('.'), '{}.{}'.format)
  return any(re.fullmatch(expression, one) for one in beginnings)


def is_stacked(path: tuple[Any, ...]) -> bool:
  """Returns whether a parameter has several layers along its first axis.

  Args:
    path: its keys, from jax.tree_util.
  """
  stacks = _SCANNED, _TOWER[-1]
  return any(jax.tree_util.DictKey(name) in path for name in stacks)


class _Layers(nn.Module):
  """Runs consecutive layers: one period, or the layers after the scan.

  Attributes:
    config: the model's sizes.
    layer_type: the family's layer, a module called like layers.Attention.
    kinds: kind of each layer.
    remat: a name of REMAT_POLICIES.
    tapped: layers with returned output or heads, counted from 0 here.
    kernel: see attention.causal.
    round_inputs: see layers.RoundInputs.
  """

  config: family.Config
  layer_type: type[nn.Module]
  kinds: tuple[str, ...]
  remat: str
  tapped: types.TapSpec
  kernel: str
  round_inputs: Callable[[types.Array, int], types.Array]

  @nn.compact
  def __call__(self, x, angles, masks, weights):
    layer = self.layer_type
    if self.remat != 'none':
      layer = nn.remat(layer, policy=REMAT_POLICIES[self.remat])
    hidden, heads = {}, {}
    for i, kind in enumerate(self.kinds):
      shows = i in self.tapped.attention
      module = layer(
        self.config, shows, self.kernel, self.round_inputs, name=f'layer_{i}'
      )
      y, _, read = module(x, angles[kind], masks[kind], None, None)
      x = y if weights is None else _weighted(x, y, weights[i])
      if i in self.tapped.hidden:
        hidden[i] = (x,)
      if shows:
        heads[i] = read
    return x, (hidden, heads)


def _weighted(x, y, weights):
  """Returns x + weight x (y - x) by row, exactly x where the weight is 0."""
  weights = weights[:, None, None].astype(x.dtype)
  return jnp.where(weights == 0, x, x + weights * (y - x))


def dropout_weights(
  rate: float, num_layers: int, rows: int, rng: types.Array
) -> types.Array:
  """Draws the layers that rows skip (stochastic depth, arXiv 1603.09382).

  Layer l = 1, ..., S is skipped by a row with probability rate x l / S.

  Args:
    rate: probability for the last layer, below 1.
    num_layers: S.
    rows: B.
    rng: a random key.

  Returns:
    float32 [S, B], multipliers of the layers' updates of a row: 0, or 1 over
    the probability that the layer is not skipped, so that the mean is 1.
  """
  kept = 1.0 - rate * jnp.arange(1, num_layers + 1)[:, None] / num_layers
  return jax.random.bernoulli(rng, kept, (num_layers, rows)) / kept


def run(model: nn.Module, x, angles, masks, spec, weights=None):
  """Runs all layers, within a compact method of `model`.

  Layers of whole periods run in stages, if the active mesh has several.

  Args:
    model: the transformer.Transformer, the parent of the layers.
    x: [B, L, D], the first layer's input.
    angles: rotary angles [B, L, H / 2] by kind of layer.
    masks: attention_mask.AttentionMask by kind of layer.
    spec: the layers whose output or heads are returned.
    weights: see dropout_weights; None for 1.

  Returns:
    [B, L, D], the last layer's output, and the Taps of `spec`.
  """
  config = model.config
  period, groups = config.scan_period, config.scan_groups
  rest = range(groups * period, config.num_layers)
  by_period = by_rest = None
  if weights is not None:
    by_period = weights[: rest.start].reshape(groups, period, -1)
    by_rest = weights[rest.start :]
  if rules.active_stages() == 1 or model.is_initializing():
    scanned = _scanned(model, groups, spec, name=_SCANNED)
    x, shown = scanned(x, angles, masks, by_period)
  else:
    x, shown = _in_stages(model, x, masks, spec, by_period)
  shown_rest = ({}, {})
  if rest:
    x, shown_rest = _Layers(
      config,
      model.layer_type,
      config.layer_kinds[rest.start :],
      model.remat,
      spec.places(rest, len(rest)),
      model.kernel,
      model.round_inputs,
      name=_REST,
    )(x, angles, masks, by_rest)
  return x, taps.collect(spec, shown, shown_rest, groups, period)


def _scanned(model, groups, spec, **attributes):
  """Returns the module that runs `groups` periods of layers.

  Args:
    model: the transformer.
    groups: the number of periods.
    spec: layers with returned outputs, of the whole model.
    **attributes: name or parent of the module.
  """
  period = model.config.scan_period
  scan = nn.scan(
    _Layers,
    variable_axes={'params': 0, MEASURED: 0},
    split_rngs={'params': True},
    in_axes=(nn.broadcast, nn.broadcast, 0),
    length=groups,
    metadata_params={nn.PARTITION_NAME: 'layer_periods'},
    # The check traces every layer once more, and thus draws random keys that
    # initialization depends on.
    check_constancy_invariants=model.is_initializing(),
  )
  return scan(
    model.config,
    model.layer_type,
    model.config.layer_kinds[:period],
    model.remat,
    spec.places(range(model.config.scan_groups * period), period),
    model.kernel,
    model.round_inputs,
    **attributes,
  )


def _in_stages(model, x, masks, spec, by_period):
  """Runs the scanned layers in the stages of the active mesh."""
  config = model.config
  groups = config.scan_groups // rules.active_stages()
  scanned = _scanned(model, groups, spec, parent=None)

  def stage(number, params, x, rows):
    row, weights = rows
    own = {kind: mask.replace(row=row) for kind, mask in masks.items()}
    if weights is not None:
      weights = jnp.moveaxis(weights, 0, 2)
      weights = jax.lax.dynamic_slice_in_dim(weights, number * groups, groups)
    angles = model.angles(row.positions)
    return scanned.apply({'params': params}, x, angles, own, weights)

  if by_period is not None:
    by_period = jnp.moveaxis(by_period, 2, 0)
  return pipeline.run(
    stage,
    model.variables['params'][_SCANNED],
    x,
    (masks[config.layer_kinds[0]].row, by_period),
    model.pipeline_micro_batches,
  )
