"""Models with quantized matrices.

A FakeQuantizedModel is trained. Its parameters are those of the wrapped model,
and each layer rounds its matrices to values that the scheme can represent. A
StoredModel is frozen. Its matrices are in memory as codes and scales.
"""

import abc
from collections.abc import Callable
import dataclasses
import functools
import math

from flax import struct
import jax

from kd.core import types
from kd.models import computed
from kd.models import families
from kd.models import tensors as tensors_lib
from kd.models import wrapped_model
from kd.quantization import code_matrix
from kd.quantization import schemes

Array = types.Array

# Keys of a stored matrix: codes in the matrix's own shape, and scales
# [*, blocks, *outputs].
CODES, SCALES = 'codes', 'scales'

# Keys of a matrix in the parameter tree, and the name of its scheme.
SchemeOf = tuple[tuple[tuple[str, ...], str], ...]


@struct.dataclass
class FakeQuantized(computed.Computed):
  """A matrix that is rounded where it is used.

  Attributes:
    weight: the matrix before rounding, an array or a Computed.
    scheme: scheme of the rounding.
    matrix: axes of the matrix in one layer.
  """

  weight: Array | computed.Computed
  scheme: schemes.Scheme = struct.field(pytree_node=False)
  matrix: tensors_lib.Matrix = struct.field(pytree_node=False)

  def value(self) -> Array:
    """Computes the rounded matrix."""
    return _rounded(self.matrix, self.scheme, computed.value(self.weight))

  def for_decoding(self) -> code_matrix.CodeMatrix:
    """Returns the codes of the rounded matrix."""
    flat = _flat(self.matrix, computed.value(self.weight))
    codes, scales = self.scheme.quantize(flat)
    return code_matrix.make(codes, scales, self.matrix.outputs)


@struct.dataclass
class Stored(computed.Computed, computed.Table):
  """A matrix in memory as codes and scales.

  Attributes:
    codes: codes in the shape of the matrix.
    scales: [blocks, *outputs]; for a table [V, blocks].
    scheme: scheme of the codes.
    matrix: axes of the matrix in one layer.
  """

  codes: Array
  scales: Array
  scheme: schemes.Scheme = struct.field(pytree_node=False)
  matrix: tensors_lib.Matrix = struct.field(pytree_node=False)

  def value(self) -> Array:
    """Computes the matrix in float32."""
    held = {CODES: self.codes, SCALES: self.scales}
    return _value(self.matrix, self.scheme, held)

  def for_decoding(self) -> code_matrix.CodeMatrix:
    """Returns the same codes."""
    flat = (_flat(self.matrix, x) for x in (self.codes, self.scales))
    return code_matrix.make(*flat, self.matrix.outputs)

  def rows(self, ids: Array) -> Array:
    """Computes rows in float32; see computed.Table."""
    codes, scales = (x[ids.reshape(-1)].T for x in (self.codes, self.scales))
    return self.scheme.dequantize(codes, scales).T.reshape(*ids.shape, -1)


@dataclasses.dataclass(frozen=True)
class _QuantizedModel(wrapped_model.WrappedModel):
  """A model with schemes for some of the inner model's matrices.

  Attributes:
    scheme_of: the schemes of these matrices; see rules.scheme_of.
  """

  scheme_of: SchemeOf

  @abc.abstractmethod
  def _each_computed(self, params: types.PyTree) -> types.PyTree:
    """Returns the core's parameters, with a Computed for each matrix."""

  def with_dropout(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns the inner model's parameters; see family.Model."""
    return self.inner.with_dropout(params, rng)

  def decoding_weights(self, params: types.PyTree) -> types.PyTree:
    """Returns codes in place of these matrices; see family.Model."""
    return self.core.decoding_weights(self._each_computed(params))

  def _each(self, tree, function):
    """Returns a tree with `function(matrix, scheme, x)` for these matrices."""
    chosen = _chosen(self)
    matrices = [matrix for matrix, _ in chosen.values()]
    return tensors_lib.replaced(
      tree, matrices, lambda matrix, x: function(*chosen[matrix.path], x)
    )


@functools.lru_cache(maxsize=32)
def _chosen(
  model: _QuantizedModel,
) -> dict[tuple[str, ...], tuple[tensors_lib.Matrix, schemes.Scheme]]:
  """Returns (matrix, scheme) by the keys of matrices that have a scheme."""
  tensors = families.of(model.config).tensors(model.config)
  by_path = {m.path: m for m in tensors_lib.matrices(tensors)}
  return {
    path: (by_path[path], schemes.SCHEMES[name])
    for path, name in model.scheme_of
  }


def _flat(matrix, x):
  """Returns an array of the matrix's axes as [*, inputs, outputs]."""
  if matrix.layer_matrix is None:  # A table [V, D].
    return x.T
  return x.reshape(*matrix.stack, -1, math.prod(matrix.outputs))


def _unflat(matrix, flat, shape):
  """Inverts _flat."""
  return flat.T if matrix.layer_matrix is None else flat.reshape(shape)


def _rounded(matrix, scheme, x):
  rounded = schemes.fake_quantize(scheme, _flat(matrix, x))
  return _unflat(matrix, rounded, x.shape)


def _stored(matrix, scheme, x):
  """Returns the codes and scales of an array."""
  codes, scales = scheme.quantize(_flat(matrix, x))
  shape = *matrix.stack, scales.shape[-2], *matrix.outputs
  return {
    CODES: _unflat(matrix, codes, x.shape),
    SCALES: _unflat(matrix, scales, shape),
  }


def _value(matrix, scheme, stored):
  """Returns the float32 array that codes and scales represent."""
  codes, scales = (_flat(matrix, stored[key]) for key in (CODES, SCALES))
  return _unflat(matrix, scheme.dequantize(codes, scales), stored[CODES].shape)


class FakeQuantizedModel(_QuantizedModel):
  """A model whose matrices are rounded in the forward pass."""

  def bind(self, params: types.PyTree) -> types.PyTree:
    """Returns a FakeQuantized for each matrix; tables are rounded at once."""

    def bound(matrix, scheme, x):
      del scheme
      return x.value() if matrix.layer_matrix is None else x

    return self._each(self._each_computed(params), bound)

  def _each_computed(self, params):
    return self._each(
      self.inner.bind(params),
      lambda matrix, scheme, x: FakeQuantized(x, scheme, matrix.of_one_layer),
    )

  def plain_params(self, params: types.PyTree) -> types.PyTree:
    """Returns parameters with the rounded values."""
    return self._each(self.inner.plain_params(params), _rounded)

  def map_rounded(
    self,
    params: types.PyTree,
    function: Callable[[schemes.Scheme, Array], Array],
  ) -> types.PyTree:
    """Returns parameters with `function(scheme, x)` for the rounded matrices.

    Args:
      params: the model's parameters.
      function: maps a scheme and a matrix [*, I, O] to an array of its shape.
    """

    def each(matrix, scheme, x):
      flat = function(scheme, _flat(matrix, x))
      return _unflat(matrix, flat, x.shape)

    return self._each(params, each)

  def is_frozen(self, path: str) -> bool:
    """Returns whether the inner model's parameter is frozen."""
    return self.inner.is_frozen(path)

  def from_plain(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns the inner model's parameters; see family.Model."""
    return self.inner.from_plain(params, rng)

  def logical_axes(self) -> types.PyTree:
    """Returns the inner model's axes."""
    return self.inner.logical_axes()


@dataclasses.dataclass(frozen=True)
class StoredModel(_QuantizedModel):
  """A frozen model with codes and scales in place of layers' matrices.

  Attributes:
    param_dtype: data type of the other parameters.
  """

  param_dtype: str

  def bind(self, params: types.PyTree) -> types.PyTree:
    """Returns a Stored for each matrix."""
    return self._each_computed(params)

  def _each_computed(self, params):
    def stored(matrix, scheme, x):
      return Stored(x[CODES], x[SCALES], scheme, matrix.of_one_layer)

    return self._each(params, stored)

  def plain_params(self, params: types.PyTree) -> types.PyTree:
    """Returns parameters with the matrices that codes and scales represent."""
    return self._each(params, _value)

  def quantize(self, path: tuple[str, ...], array: Array) -> types.PyTree:
    """Returns one parameter as this model stores it.

    Args:
      path: its keys in the parameter tree.
      array: the inner model's parameter.
    """
    chosen = _chosen(self).get(path)
    if chosen is None:
      return array.astype(self.param_dtype)
    return _stored(*chosen, array)

  def from_plain(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns the parameters as this model stores them; see family.Model."""
    params = self.inner.from_plain(params, rng)
    return jax.tree_util.tree_map_with_path(
      lambda path, x: self.quantize(tuple(key.key for key in path), x), params
    )

  def is_frozen(self, path: str) -> bool:
    """Returns True: codes have no gradient."""
    del path
    return True

  def logical_axes(self) -> types.PyTree:
    """Returns logical axis names; see family.Model."""

    def axes(matrix, scheme, spec):
      del scheme
      whole = jax.sharding.PartitionSpec
      if matrix.layer_matrix is None:
        return {CODES: spec, SCALES: whole(spec[0], None)}
      stack, inputs = len(matrix.stack), len(matrix.inputs)
      scales = whole(*spec[:stack], None, *spec[stack + inputs :])
      return {CODES: spec, SCALES: scales}

    return self._each(self.inner.logical_axes(), axes)
