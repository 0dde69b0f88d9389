"""Matrices that a layer computes where it uses them.

In the parameters that a model is applied to, a `Computed` may stand where the
model has a matrix: a base with an adapter, or quantized values. Layers are
scanned and rematerialized, so that only one layer's result exists at a time.
"""

import abc

from kd.core import types


class Computed(abc.ABC):
  """A pytree whose value is a matrix. Its first leaf has the matrix's shape."""

  @abc.abstractmethod
  def value(self) -> types.Array:
    """Computes the matrix."""


def value(parameter: types.Array | Computed) -> types.Array:
  """Returns a parameter as layers use it."""
  if isinstance(parameter, Computed):
    return parameter.value()
  return parameter
