"""Rounds the inputs of products by a running average of their largest value.

Each product with the weights of a layer has a range: an exponential moving
average over updates of the largest magnitude among its inputs (arXiv
1712.05877, section 3.1), which starts at the first one. Ranges are parameters
of the model, so that checkpoints contain them and evaluation and decoding use
them, but no optimizer changes them. The "gradient" of a range is the largest
input of the step. In this way it passes out of scanned and rematerialized
layers.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import family
from kd.models import layer_stack
from kd.models import layers
from kd.models import wrapped_model
from kd.quantization import schemes

Array = types.Array

# Modules of a layer, each with the ranges of its two products.
_MODULES = ('attention', 'mlp')


@jax.custom_vjp
def _observed(x, input_range):
  """Returns x; the gradient of `input_range` is the largest magnitude in it."""
  del input_range
  return x


def _forward(x, input_range):
  del input_range
  return x, jnp.max(jnp.abs(x)).astype(jnp.float32)


def _backward(largest, gradient):
  return gradient, largest


_observed.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class RoundedInputs:
  """Rounds the inputs of a product; see layers.RoundInputs.

  Attributes:
    scheme: name of the scheme in schemes.SCHEMES.
  """

  scheme: str

  def __call__(self, x: Array, axes: int, input_range: Array | None) -> Array:
    """Rounds x by the range; returns x itself if that is 0 or None.

    Values beyond the range get the largest code and no gradient.
    """
    del axes
    if input_range is None:
      return x
    x = _observed(x, input_range)
    input_range = jax.lax.stop_gradient(input_range)
    scheme = schemes.SCHEMES[self.scheme]
    scale = input_range / scheme.highest
    scheme = dataclasses.replace(
      scheme, scale_of=lambda blocks: scale.reshape([1] * blocks.ndim)
    )
    return jnp.where(input_range > 0, schemes.fake_quantize(scheme, x), x)


@dataclasses.dataclass(frozen=True)
class RunningRangesModel(wrapped_model.WrappedModel):
  """A model with the ranges of its products' inputs among its parameters."""

  def bind(self, params: types.PyTree) -> types.PyTree:
    """Returns the inner model's result with the ranges; see family.Model."""
    return self.inner.bind(params)

  def with_dropout(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns the inner model's result with the ranges; see family.Model."""
    return self.inner.with_dropout(params, rng)

  def decoding_weights(self, params: types.PyTree) -> types.PyTree:
    """Returns the inner model's result with the ranges; see family.Model."""
    return self.inner.decoding_weights(params)

  def from_plain(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns the inner model's parameters and ranges of 0."""
    return self.with_ranges(self.inner.from_plain(params, rng), jnp.zeros)

  def plain_params(self, params: types.PyTree) -> types.PyTree:
    """Returns the inner model's result without ranges; see family.Model."""
    held = traverse_util.flatten_dict(params)
    rest = {k: x for k, x in held.items() if k[-1] != layers.INPUT_RANGES}
    return self.inner.plain_params(traverse_util.unflatten_dict(rest))

  def is_frozen(self, path: str) -> bool:
    """Returns whether no optimizer trains a parameter; see family.Model."""
    is_range = path.rpartition('.')[2] == layers.INPUT_RANGES
    return is_range or self.inner.is_frozen(path)

  def logical_axes(self) -> types.PyTree:
    """Returns logical axis names; see family.Model."""
    whole = lambda shape: jax.sharding.PartitionSpec(*[None] * len(shape))
    return self.with_ranges(self.inner.logical_axes(), whole)

  def with_ranges(
    self, params: types.PyTree, value: Callable[[tuple[int, ...]], Any]
  ) -> types.PyTree:
    """Returns the parameters, with value(shape) for missing ranges."""
    held, config = traverse_util.flatten_dict(params), self.config
    for layer in range(config.num_layers):
      keys, group = layer_stack.location(config, layer)
      shape = (2,) if group is None else (config.scan_groups, 2)
      for module in _MODULES:
        path = (*keys, module, layers.INPUT_RANGES)
        if path not in held:
          held[path] = value(shape)
    return traverse_util.unflatten_dict(held)


def split(tree: types.PyTree) -> tuple[types.PyTree, types.PyTree]:
  """Splits parameters into ranges and the rest, with None elsewhere."""

  def pick(wanted):
    return jax.tree_util.tree_map_with_path(
      lambda path, x: x if _is_range(path) == wanted else None, tree
    )

  return pick(True), pick(False)


def carried(source: types.PyTree, target: types.PyTree) -> types.PyTree:
  """Returns the target's parameters with the ranges of the source."""
  held = traverse_util.flatten_dict(source)
  ranges = {k: x for k, x in held.items() if k[-1] == layers.INPUT_RANGES}
  whole = traverse_util.flatten_dict(target) | ranges
  return traverse_util.unflatten_dict(whole)


def _is_range(path):
  return path[-1] == jax.tree_util.DictKey(layers.INPUT_RANGES)


def update(
  ranges: types.PyTree, largest: types.PyTree, decay: float, finite: Array
) -> types.PyTree:
  """Returns the ranges after an update.

  Args:
    ranges: the ranges before; 0 before the first update.
    largest: the largest magnitude of the update's inputs; 0 where no gradient
      passed, which leaves the range unchanged.
    decay: decay of the average.
    finite: bool []; the ranges change only if True.
  """

  def one(old, new):
    mean = jnp.where(old > 0, decay * old + (1 - decay) * new, new)
    return jnp.where(finite & (new > 0), mean, old)

  return jax.tree.map(one, ranges, largest)


def wrapped(module: family.Model, scheme: str) -> family.Model:
  """Returns the model with inputs rounded by running ranges.

  Args:
    module: the model; its core must not round inputs.
    scheme: name of the scheme in schemes.INPUTS.
  """
  return RunningRangesModel(module.clone(round_inputs=RoundedInputs(scheme)))
