"""Matrices that a layer computes where it uses them.

In a model's parameters, a `Computed` may take the place of a matrix: a base
with an adapter, or quantized values. Layers are scanned and rematerialized, so
that only one layer's result exists at a time. In the weights for decoding, an
`Operand` may take the place of a matrix.
"""

import abc
from typing import Any

from kd.core import types


class Operand(abc.ABC):
  """A pytree that represents a matrix in products.

  Attributes:
    outputs: sizes of the output axes, whose product is O.
  """

  outputs: tuple[int, ...]

  @abc.abstractmethod
  def multiply(self, x: types.Array, dtype: Any) -> types.Array:
    """Computes x [B, I] times the matrix: [B, O] in `dtype`."""


class Computed(abc.ABC):
  """A pytree whose value is a matrix. Its first leaf has the matrix's shape."""

  @abc.abstractmethod
  def value(self) -> types.Array:
    """Computes the matrix."""

  def for_decoding(self) -> types.Array | Operand:
    """Returns the matrix as decoding stores it."""
    return self.value()


class Table(abc.ABC):
  """A pytree that represents an embedding table in lookups of rows."""

  @abc.abstractmethod
  def rows(self, ids: types.Array) -> types.Array:
    """Returns the rows of ids [*], float32 [*, D]."""


def stands_for_matrix(leaf: Any) -> bool:
  """Returns whether a leaf is a Computed or an Operand."""
  return isinstance(leaf, (Computed, Operand))


def value(parameter: types.Array | Computed) -> types.Array:
  """Returns a parameter as layers use it."""
  if isinstance(parameter, Computed):
    return parameter.value()
  return parameter


def rows(table: types.Array | Table, ids: types.Array) -> types.Array:
  """Returns the rows [*, D] of a table [V, D]; see Table.rows."""
  if isinstance(table, Table):
    return table.rows(ids)
  return table[ids]
