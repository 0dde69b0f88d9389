"""Maps parameters to the tensors of other programs' files.

A linear map is stored here with its inputs first and a separate axis of heads,
e.g. the query as [D, N, H]. In Hugging Face's and GGUF's files it is a matrix
with its outputs first, [N * H, D].
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from kd.core import types

# Keys of a layer's parameters, and the index of its scan group or None.
Location = tuple[tuple[str, ...], int | None]

# The matrices of a layer in every family, as Hugging Face's files name them.
LAYER_MATRICES = (
  *('q_proj', 'k_proj', 'v_proj', 'o_proj'),
  *('gate_proj', 'up_proj', 'down_proj'),
)

HF = 'hf'
GGUF = 'gguf'


@dataclasses.dataclass(frozen=True)
class Entry:
  """One row of a family's table of tensors.

  Attributes:
    path: keys into the parameter tree, or into a layer's part of it, joined
      by '/'.
    hf: its name in a Hugging Face file, within its layer.
    gguf: its name in a GGUF file, within its layer.
    dims: its dimensions here, as letters: V, D, F, H, N, G.
    inputs: number of input dimensions; 0 if files have the same layout.
    gguf_offset: offset that GGUF files add to the parameter: 1 for a norm with
      weight 1 + scale.
    file_inputs: the input dimensions in files, as letters, if there are
      several; else ''.
  """

  path: str
  hf: str
  gguf: str
  dims: str
  inputs: int = 0
  gguf_offset: float = 0.0
  file_inputs: str = ''


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of a file, and the parameter that it belongs to.

  Attributes:
    path: keys into the parameter tree.
    layer: index of its layer; None if it belongs to none.
    group: its index along the first axis of a scanned parameter, else None.
    shape: its shape here, without that axis.
    dims: its dimensions here, as letters; see Entry.
    inputs: number of input dimensions of `shape`; see Entry.
    hf: its name in a Hugging Face file.
    gguf: its name in a GGUF file.
    gguf_offset: see Entry.
    file_inputs: sizes of the input dimensions in files; () if there is one.
  """

  path: tuple[str, ...]
  layer: int | None
  group: int | None
  shape: tuple[int, ...]
  dims: str
  inputs: int
  hf: str
  gguf: str
  gguf_offset: float
  file_inputs: tuple[int, ...] = ()

  @property
  def is_table(self) -> bool:
    """Whether it has a row for each id; files may have more, as padding."""
    return self.dims.startswith('V')

  @property
  def is_vision(self) -> bool:
    """Whether it belongs to a vision tower or its projector."""
    return self.path[0] == 'vision'

  @property
  def layer_matrix(self) -> str | None:
    """Its name in LAYER_MATRICES, or None."""
    if self.layer is None or not self.inputs:
      return None
    return self.hf.removesuffix('.weight').rpartition('.')[2]

  def name(self, layout: str) -> str:
    """Returns its name in a file of `layout` (HF or GGUF)."""
    return {HF: self.hf, GGUF: self.gguf}[layout]

  @property
  def file_shape(self) -> tuple[int, ...]:
    """Its shape in either kind of file."""
    if not self.inputs:
      return self.shape
    inputs, outputs = self.shape[: self.inputs], self.shape[self.inputs :]
    return math.prod(outputs), *(self.file_inputs or (math.prod(inputs),))

  def from_file(self, array: np.ndarray, layout: str) -> np.ndarray:
    """Converts a file's array to the parameter, of `shape`."""
    if self.inputs:
      return array.reshape(len(array), -1).T.reshape(self.shape)
    if self.gguf_offset and layout == GGUF:
      return array - np.float32(self.gguf_offset)
    return array

  def to_file(self, array: np.ndarray, layout: str) -> np.ndarray:
    """Converts a parameter of `shape` to a file's array."""
    if self.inputs:
      outputs = self.file_shape[0]
      return array.reshape(-1, outputs).T.reshape(self.file_shape)
    if self.gguf_offset and layout == GGUF:
      return array + np.float32(self.gguf_offset)
    return array


def of_model(
  top: Sequence[Entry],
  layer: Sequence[Entry],
  sizes: Mapping[str, int],
  locations: Sequence[Location],
) -> list[Tensor]:
  """Returns a model's tensors.

  Args:
    top: entries that belong to no layer, with complete names.
    layer: entries of each layer.
    sizes: size of a dimension by its letter in `dims`.
    locations: location of each layer's parameters.

  Returns:
    The tensors of `top`, followed by those of each layer.
  """
  listed = [
    of_entry(entry, None, ((), None), '{}', '{}', sizes) for entry in top
  ]
  for i, location in enumerate(locations):
    hf, gguf = f'model.layers.{i}.{{}}.weight', f'blk.{i}.{{}}.weight'
    listed += [of_entry(entry, i, location, hf, gguf, sizes) for entry in layer]
  return listed


def of_entry(
  entry: Entry,
  layer: int | None,
  location: Location,
  hf: str,
  gguf: str,
  sizes: Mapping[str, int],
) -> Tensor:
  """Returns the tensor of an entry.

  Args:
    entry: the row of the table.
    layer: index of its layer; None if it belongs to none.
    location: location of the layer's parameters.
    hf: its name in a Hugging Face file, with {} for the entry's name.
    gguf: the same for a GGUF file.
    sizes: size of a dimension by its letter in `dims`.
  """
  keys, group = location
  return Tensor(
    path=keys + tuple(entry.path.split('/')),
    layer=layer,
    group=group,
    shape=tuple(sizes[d] for d in entry.dims),
    dims=entry.dims,
    inputs=entry.inputs,
    hf=hf.format(entry.hf),
    gguf=gguf.format(entry.gguf),
    gguf_offset=entry.gguf_offset,
    file_inputs=tuple(sizes[d] for d in entry.file_inputs),
  )


@dataclasses.dataclass(frozen=True)
class Matrix:
  """A matrix of the parameter tree, or those of several layers in one array.

  Attributes:
    path: keys into the parameter tree.
    layer_matrix: its name in LAYER_MATRICES; None for an embedding table.
    groups: size of the scan's axis, the first one; None without one.
    inputs: sizes of its input axes; for a table, those after the vocabulary.
    outputs: sizes of its output axes; for a table, the vocabulary.
  """

  path: tuple[str, ...]
  layer_matrix: str | None
  groups: int | None
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]

  @property
  def stack(self) -> tuple[int, ...]:
    """The axes before inputs and outputs: the scan's, or none."""
    return () if self.groups is None else (self.groups,)

  @property
  def of_one_layer(self) -> 'Matrix':
    """The matrix of a single layer."""
    return dataclasses.replace(self, groups=None)

  @property
  def num_inputs(self) -> int:
    """The number of inputs, of all axes together."""
    return math.prod(self.inputs)


def matrices(tensors: Sequence[Tensor]) -> list[Matrix]:
  """Returns the matrices of a model, in the order of its tensors."""
  by_path = {}
  for tensor in tensors:
    if tensor.layer_matrix or tensor.is_table:
      by_path.setdefault(tensor.path, []).append(tensor)
  found = []
  for path, layers in by_path.items():
    first = layers[0]
    count = first.inputs
    inputs, outputs = first.shape[:count], first.shape[count:]
    if first.is_table:
      outputs, inputs = first.shape[:1], first.shape[1:]
    found.append(
      Matrix(
        path=path,
        layer_matrix=first.layer_matrix,
        groups=None if first.group is None else len(layers),
        inputs=inputs,
        outputs=outputs,
      )
    )
  return found


def replaced(
  tree: Mapping[str, Any],
  matrices_: Sequence[Matrix],
  function: Callable[[Matrix, Any], Any],
) -> dict[str, Any]:
  """Returns a tree of parameters with other values for some matrices.

  Args:
    tree: parameters, which are not modified.
    matrices_: the matrices to replace.
    function: maps a matrix and its value to the new value.
  """
  new = _copy(tree)
  for matrix in matrices_:
    set_leaf(new, matrix.path, function(matrix, leaf(tree, matrix.path)))
  return new


def _copy(tree):
  """Returns a copy of nested dicts with the same leaves."""
  return {
    key: _copy(value) if isinstance(value, Mapping) else value
    for key, value in tree.items()
  }


def leaf(tree: types.PyTree, path: tuple[str, ...]) -> types.PyTree:
  """Returns the leaf, or subtree, at `path`."""
  for key in path:
    tree = tree[key]
  return tree


def set_leaf(tree: dict, path: tuple[str, ...], value: types.PyTree) -> None:
  """Puts `value` at `path` of nested dicts, and creates missing dicts."""
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value
