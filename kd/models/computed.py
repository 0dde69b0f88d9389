"""Matrices that a layer computes where it uses them.

In the parameters that a model is applied to, a `Computed` may stand where the
model has a matrix: a base with an adapter, or quantized values. Layers are
scanned and rematerialized, so that only one layer's result exists at a time.
In the weights that decoding reads, an `Operand` may stand there.
"""

import abc
from typing import Any

from kd.core import types


class Operand(abc.ABC):
  """A pytree that stands for a matrix, which can be multiplied as it is.

  Attributes:
    outputs: sizes of its outputs' axes, O together.
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
    """Returns the matrix as decoding keeps it."""
    return self.value()


class Table(abc.ABC):
  """A pytree that stands for an embedding table, whose rows can be read."""

  @abc.abstractmethod
  def rows(self, ids: types.Array) -> types.Array:
    """Returns rows, float32 [*, D] of ids [*]."""


def stands_for_matrix(leaf: Any) -> bool:
  """Returns whether it stands for a matrix, and is no array."""
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
