"""A model with another representation of a plain model's parameters."""

import abc
import dataclasses
import functools
from typing import Any, Self

import jax

from kd.core import types
from kd.models import family

Array = types.Array


@dataclasses.dataclass(frozen=True)
class WrappedModel(abc.ABC):
  """Implements family.Model with the layers of another model.

  Attributes:
    inner: the model with another representation; it may be wrapped too.
  """

  inner: family.Model

  @abc.abstractmethod
  def bind(self, params: types.PyTree) -> types.PyTree:
    """Returns the parameters with Computed matrices; see family.Model."""

  @abc.abstractmethod
  def from_plain(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns parameters from those of `core`; see family.Model."""

  @abc.abstractmethod
  def with_dropout(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns the parameters of one training step; see family.Model."""

  @abc.abstractmethod
  def plain_params(self, params: types.PyTree) -> types.PyTree:
    """Returns the parameters of the plain model; see family.Model."""

  @abc.abstractmethod
  def is_frozen(self, path: str) -> bool:
    """Returns whether a parameter is never trained; see family.Model."""

  @abc.abstractmethod
  def logical_axes(self) -> types.PyTree:
    """Returns logical axis names; see family.Model."""

  @property
  def representation(self) -> dict[str, Any]:
    """The attributes of each wrapper, by its class; see family.Model."""
    fields = [f.name for f in dataclasses.fields(self) if f.name != 'inner']
    own = {name: getattr(self, name) for name in fields}
    return {type(self).__name__: own, **self.inner.representation}

  @property
  def core(self) -> family.Model:
    """The innermost model, which wraps no other."""
    return self.inner.core

  @property
  def config(self) -> family.Config:
    return self.core.config

  @property
  def dtype(self) -> jax.numpy.dtype:
    return self.core.dtype

  @property
  def remat(self) -> str:
    return self.core.remat

  @property
  def kernel(self) -> str:
    return self.core.kernel

  def init_params(self, rng: Array) -> types.PyTree:
    """Returns random parameters; see family.Model."""
    plain_rng, rng = jax.random.split(rng)
    return self.from_plain(self.core.init_params(plain_rng), rng)

  def abstract_params(self) -> types.PyTree:
    """Returns the shape and type of each parameter; see family.Model."""
    return _abstract(self)

  def clone(self, **changes: Any) -> Self:
    """Returns a copy whose inner model has other attributes."""
    return dataclasses.replace(self, inner=self.inner.clone(**changes))

  def forward(
    self,
    params: types.PyTree,
    batch: types.Batch,
    spec: types.TapSpec,
    layer_weights: Array | None = None,
  ) -> tuple[Array, types.Taps]:
    """Runs whole rows; see family.Model."""
    return self.core.forward(self.bind(params), batch, spec, layer_weights)

  def unembedding(self, params: types.PyTree) -> Array:
    """Returns the output embedding [V, D]; see family.Model."""
    return self.core.unembedding(self.bind(params))

  def decoding_weights(self, params: types.PyTree) -> types.PyTree:
    """Returns the parameters for `extend`; see family.Model."""
    return self.core.decoding_weights(self.plain_params(params))

  def empty_cache(self, batch: int, slots: int) -> types.PyTree:
    """Returns an empty KV cache; see family.Model."""
    return self.core.empty_cache(batch, slots)

  def prefill(
    self,
    params: types.PyTree,
    tokens: Array,
    lengths: Array,
    images: types.Images | None = None,
  ) -> tuple[Array, types.PyTree]:
    """Computes hidden states and cache of prompts; see family.Model."""
    return self.core.prefill(self.bind(params), tokens, lengths, images)

  def extend(
    self,
    held: types.PyTree,
    cache: types.PyTree,
    ids: Array,
    positions: Array,
  ) -> tuple[Array, types.PyTree]:
    """Computes hidden states of the next tokens; see family.Model."""
    return self.core.extend(held, cache, ids, positions)


@functools.lru_cache(maxsize=32)  # Tracing may take a second.
def _abstract(model):
  plain = model.core.abstract_params()
  return jax.eval_shape(model.from_plain, plain, jax.random.key(0))
