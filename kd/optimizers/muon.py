"""Muon for the matrices of layers, Adam for all other parameters."""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
import optax

from kd.core import types
from kd.models import families
from kd.models import family
from kd.models import layer_stack
from kd.optimizers import parameter_groups

Axes = optax.contrib.MuonDimensionNumbers


class State(NamedTuple):
  """The states of Muon and Adam; None in place of the other's parameters.

  Attributes:
    matrices: state of Muon.
    others: state of Adam.
  """

  matrices: types.PyTree
  others: types.PyTree


def matrix_axes(sizes: family.Config, params: types.PyTree) -> types.PyTree:
  """Returns the input and output axes of the layers' matrices.

  A query kernel [D, N, H] is a matrix from D inputs to N x H outputs. The axis
  along which layers are stacked is neither.

  Args:
    sizes: config of the model.
    params: pair of the model's parameters and the projections of loss terms.

  Returns:
    Axes by parameter; None for parameters other than matrices of layers.
  """
  inputs = {
    tensor.path: tensor.inputs
    for tensor in families.of(sizes).tensors(sizes)
    if tensor.layer is not None
  }

  def axes(path, x):
    names = parameter_groups.keys(path)
    count = inputs.get(names[1:], 0)
    if names[0] != '0' or not count:
      return None
    first = int(layer_stack.is_stacked(path))
    return Axes(
      tuple(range(first, first + count)), tuple(range(first + count, x.ndim))
    )

  return jax.tree_util.tree_map_with_path(axes, params)


def direction(
  axes_of: Callable[[types.PyTree], types.PyTree],
  momentum: float,
  nesterov: bool,
  iterations: int,
  rms: float,
  adam: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Returns the direction of Muon, scaled to suit AdamW's learning rates.

  Args:
    axes_of: function from parameters to Axes; None for those that Adam trains.
    momentum: decay of the gradient's mean.
    nesterov: whether to use Nesterov momentum.
    iterations: number of Newton-Schulz iterations.
    rms: root mean square of a direction whose singular values are all 1.
    adam: transformation for all other parameters.
  """

  def split(tree, axes):
    pick = lambda wanted: jax.tree.map(
      lambda x, a: x if (a is not None) == wanted else None, tree, axes
    )
    return pick(True), pick(False)

  muon = functools.partial(
    optax.contrib.scale_by_muon,
    ns_steps=iterations,
    beta=momentum,
    nesterov=nesterov,
  )

  def init(params):
    matrices, others = split(params, axes_of(params))
    return State(muon().init(matrices), adam.init(others))

  def update(gradients, state, params):
    axes = axes_of(params)
    matrices, others = split(gradients, axes)
    matrices, matrices_state = muon(weight_dimension_numbers=axes).update(
      matrices, state.matrices
    )
    others, others_state = adam.update(others, state.others)

    def scaled(x, a):
      fans = (math.prod(x.shape[i] for i in part) for part in a)
      return rms * math.sqrt(max(fans)) * x

    matrices = jax.tree.map(scaled, matrices, axes)
    return (
      parameter_groups.merge(matrices, others),
      State(matrices_state, others_state),
    )

  return optax.GradientTransformation(init, update)
