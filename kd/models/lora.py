"""Low-rank adapters on a frozen model (arXiv 2106.09685).

A matrix W of inputs by outputs becomes W + scale * A B, with A [inputs, R] and
B [R, outputs]. The scale is alpha / R, or alpha / sqrt(R) if rank-stabilized
(arXiv 2312.03732).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import computed
from kd.models import families
from kd.models import family
from kd.models import tensors as tensors_lib
from kd.models import wrapped_model

Array = types.Array

# Keys of an adapted matrix: W, which is frozen, and A and B, which are trained.
BASE, A, B = 'base', 'a', 'b'


@struct.dataclass
class Adapted(computed.Computed):
  """A matrix with its adapter.

  Attributes:
    base: W, [*inputs, *outputs].
    a: [*inputs, R].
    b: [R, *outputs].
    scale: see the module's docstring.
  """

  base: Array
  a: Array
  b: Array
  scale: float = struct.field(pytree_node=False)

  def value(self) -> Array:
    """Computes W + scale * A B in float32."""
    base = computed.value(self.base).astype(jnp.float32)
    rank = self.a.shape[-1]
    product = _product(self.a.reshape(-1, rank), self.b.reshape(rank, -1))
    return base + self.scale * product.reshape(base.shape)


@jax.custom_vjp
def _product(a, b):
  """Returns a b for a [I, R] and b [R, O].

  Because of the batch axis of size 1, the policy "dots" of rematerialization
  does not save the product, which would store a copy of every layer's matrix.
  """
  return jnp.einsum('bir,bro->bio', a[None], b[None])[0]


def _product_forward(a, b):
  return _product(a, b), (a, b)


def _product_backward(factors, gradient):
  # Without the batch axis, since XLA's products with one are slow on CPU.
  a, b = factors
  return gradient @ b.T, a.T @ gradient


_product.defvjp(_product_forward, _product_backward)


@dataclasses.dataclass(frozen=True)
class LoraModel(wrapped_model.WrappedModel):
  """A model with frozen matrices and trained adapters.

  Its parameters are those of the inner model, with a dict of W, A and B in
  place of each adapted matrix.

  Attributes:
    rank: R.
    alpha: see the module's docstring.
    targets: the adapted matrices, names in tensors.LAYER_MATRICES.
    is_rank_stabilized: see the module's docstring.
    dropout: probability that an input of an adapter is dropped in a training
      step.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...]
  is_rank_stabilized: bool
  dropout: float = 0.0

  @property
  def scale(self) -> float:
    rank = math.sqrt(self.rank) if self.is_rank_stabilized else self.rank
    return self.alpha / rank

  def bind(self, params: types.PyTree) -> types.PyTree:
    """Returns parameters with an Adapted for each adapted matrix."""
    bound = self.inner.bind(self.base_params(params))
    return self._adapt(bound, params)

  def plain_params(self, params: types.PyTree) -> types.PyTree:
    """Merges the adapters into float32 matrices."""

    def merged(matrix, adapted):
      if matrix.groups is None:
        return adapted.value()
      return jax.vmap(Adapted.value)(adapted)

    plain = self.inner.plain_params(self.base_params(params))
    return self._each(self._adapt(plain, params), merged)

  def with_dropout(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Drops some inputs of adapters, the same for all tokens.

    The other inputs are divided by 1 - dropout. The tokens of a step share the
    dropped inputs, since A is merged into W before the product.
    """
    if not self.dropout:
      return params

    def dropped(matrix, x):
      key = jax.random.fold_in(rng, _adapted(self).index(matrix))
      shape = *matrix.stack, *matrix.inputs, 1
      kept = jax.random.bernoulli(key, 1 - self.dropout, shape)
      return {**x, A: jnp.where(kept, x[A] / (1 - self.dropout), 0)}

    return self._each(params, dropped)

  def base_params(self, params: types.PyTree) -> types.PyTree:
    """Returns the frozen model's parameters."""
    return self._each(params, lambda _, x: x[BASE])

  def is_frozen(self, path: str) -> bool:
    """Returns whether a parameter is frozen; see family.Model."""
    return path.rpartition('.')[2] not in (A, B)

  def from_plain(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns the parameters with adapters that initially change nothing."""
    base_rng, rng = jax.random.split(rng)
    base = self.inner.from_plain(params, base_rng)
    return self.with_base(base, self.init_adapters(rng))

  def with_base(
    self, base: types.PyTree, adapters: Sequence[tuple[Array, Array]]
  ) -> types.PyTree:
    """Returns the parameters of a frozen model with adapters.

    Args:
      base: the inner model's parameters.
      adapters: (A, B) of each adapted matrix, as from init_adapters.
    """
    pairs = iter(adapters)

    def adapted(matrix, x):
      del matrix
      a, b = next(pairs)
      return {BASE: x, A: a, B: b}

    return self._each(base, adapted)

  def init_adapters(self, rng: Array) -> list[tuple[Array, Array]]:
    """Returns float32 adapters that initially change nothing.

    A is uniform within 1 / sqrt(inputs), as in the PEFT library; B is 0.
    """
    adapters = []
    for number, matrix in enumerate(_adapted(self)):
      bound = 1 / math.sqrt(matrix.num_inputs)
      a = jax.random.uniform(
        jax.random.fold_in(rng, number),
        (*matrix.stack, *matrix.inputs, self.rank),
        jnp.float32,
        -bound,
        bound,
      )
      b = jnp.zeros((*matrix.stack, self.rank, *matrix.outputs), jnp.float32)
      adapters.append((a, b))
    return adapters

  def logical_axes(self) -> types.PyTree:
    """Returns logical axis names; see family.Model."""
    plain = self.core.logical_axes()

    def axes(matrix, base):
      spec = tensors_lib.leaf(plain, matrix.path)
      stack, inputs = len(matrix.stack), len(matrix.inputs)
      whole = jax.sharding.PartitionSpec
      a = whole(*spec[: stack + inputs], None)
      b = whole(*spec[:stack], None, *spec[stack + inputs :])
      return {BASE: base, A: a, B: b}

    return self._each(self.inner.logical_axes(), axes)

  def _adapt(self, base, params):
    """Returns `base` with the adapters of `params`."""

    def adapted(matrix, x):
      held = tensors_lib.leaf(params, matrix.path)
      return Adapted(x, held[A], held[B], self.scale)

    return self._each(base, adapted)

  def _each(self, tree, function):
    return tensors_lib.replaced(tree, _adapted(self), function)


def with_adapters(inner: family.Model, fields: Mapping[str, Any]) -> LoraModel:
  """Returns the model with the adapters that `student.lora` describes."""
  return LoraModel(
    inner=inner,
    rank=fields['rank'],
    alpha=fields['alpha'],
    targets=tuple(fields['targets']),
    is_rank_stabilized=fields['rank_stabilized'],
    dropout=fields['dropout'],
  )


@functools.lru_cache(maxsize=32)
def _adapted(model: LoraModel) -> list[tensors_lib.Matrix]:
  """Returns the adapted matrices, in the order of the model's tensors."""
  tensors = families.of(model.config).tensors(model.config)
  return [
    matrix
    for matrix in tensors_lib.matrices(tensors)
    if matrix.layer_matrix in model.targets
  ]
