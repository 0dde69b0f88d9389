"""Packs examples into rows of a fixed length without cutting any."""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any

import numpy as np

# In the order of a record: weights are float32, all other fields int32.
FIELDS = (
  'tokens',
  'targets',
  'positions',
  'segment_ids',
  'parts',
  'weights',
)


@dataclasses.dataclass(frozen=True)
class Example:
  """A tokenized example of n ids.

  Attributes:
    ids: int32 [n], starting with BOS if the tokenizer has one.
    parts: int32 [n], part of the answer that each id belongs to, see
      `types.Batch.parts`.
    weights: float32 [n], weight of each id as a target.
    index: index of the example in the prepared `examples.jsonl`.
    images: image_rows.Slots, in the order of their tokens.
  """

  ids: np.ndarray
  parts: np.ndarray
  weights: np.ndarray
  index: int
  images: tuple[Any, ...] = ()

  @property
  def positions(self) -> int:
    """Number of positions in a row: the last id is only a target."""
    return len(self.ids) - 1


def assign(
  lengths: Sequence[int],
  length: int,
  pack: bool,
  images: Sequence[int] | None = None,
  per_row: int = 0,
) -> tuple[list[list[int]], list[int]]:
  """Assigns examples to rows.

  Packing is first-fit in the given order: each example is put into the first
  row with enough room for it.

  Args:
    lengths: number of positions of each example.
    length: L, number of positions per row.
    pack: whether rows may contain several examples.
    images: number of images of each example; None if there are none.
    per_row: maximum number of images per row.

  Returns:
    The indices of the examples of each row, and the indices of the examples
    that do not fit into a row.
  """
  images = [0] * len(lengths) if images is None else images
  fits = [
    n <= length and m <= per_row for n, m in zip(lengths, images, strict=True)
  ]
  too_long = [i for i, is_fitting in enumerate(fits) if not is_fitting]
  fitting = [i for i, n in enumerate(lengths) if fits[i] and n > 0]
  if not pack:
    return [[i] for i in fitting], too_long
  room = _Room(len(fitting), length, per_row)
  rows = []
  for i in fitting:
    row = room.take(lengths[i], images[i])
    if row == len(rows):
      rows.append([])
    rows[row].append(i)
  return rows, too_long


class _Room:
  """Finds the first row with room for an example in logarithmic time.

  A tournament tree over rows, in which each node stores the maximum numbers of
  free positions and free images over the rows below it.
  """

  def __init__(self, rows: int, length: int, per_row: int):
    self._leaves = 1 << max(rows - 1, 0).bit_length()
    self._largest = [length] * (2 * self._leaves)
    self._most = [per_row] * (2 * self._leaves)

  def take(self, amount: int, images: int) -> int:
    """Reserves positions and images in a row; returns the row's index."""
    leaf = self._first(1, amount, images) if images else self._first_of(amount)
    self._subtract(self._largest, leaf, amount)
    if images:
      self._subtract(self._most, leaf, images)
    return leaf - self._leaves

  def _first_of(self, amount):
    """Returns the first leaf with enough free positions."""
    largest, node = self._largest, 1
    while node < self._leaves:
      node *= 2
      node += largest[node] < amount
    return node

  def _first(self, node, amount, images):
    """Returns the first leaf below a node with room for both, or 0."""
    if self._largest[node] < amount or self._most[node] < images:
      return 0
    if node >= self._leaves:
      return node
    return self._first(2 * node, amount, images) or self._first(
      2 * node + 1, amount, images
    )

  def _subtract(self, tree, node, amount):
    """Subtracts an amount from a leaf, and updates the nodes above it."""
    tree[node] -= amount
    while node > 1:
      node //= 2
      left, right = tree[2 * node], tree[2 * node + 1]
      largest = left if left > right else right
      if tree[node] == largest:
        return  # No node above changes.
      tree[node] = largest


def fill(
  examples: Sequence[Example], length: int, pad_id: int
) -> dict[str, np.ndarray]:
  """Concatenates examples in one row.

  An example of n ids takes n - 1 positions: token t predicts target t, which is
  the next id, so no target belongs to another example.

  Args:
    examples: the examples in order, with at most `length` positions in total.
    length: L.
    pad_id: id of unused tokens and targets.

  Returns:
    Arrays by name in FIELDS: weights float32 [L], all others int32 [L].

  Raises:
    ValueError: the examples do not fit.
  """
  if sum(e.positions for e in examples) > length:
    raise ValueError(f'the examples do not fit in a row of {length}')
  row = empty(length, pad_id)
  counted = np.arange(length)
  begin = 0
  for segment, example in enumerate(examples, start=1):
    end = begin + example.positions
    row['tokens'][begin:end] = example.ids[:-1]
    row['targets'][begin:end] = example.ids[1:]
    row['positions'][begin:end] = counted[: example.positions]
    row['segment_ids'][begin:end] = segment
    row['parts'][begin:end] = example.parts[1:]
    row['weights'][begin:end] = example.weights[1:]
    begin = end
  return row


def empty(length: int, pad_id: int) -> dict[str, np.ndarray]:
  """Returns a row of padding (segment 0, weight 0); see `fill`."""
  row = {name: np.zeros(length, np.int32) for name in FIELDS[:-1]}
  row['tokens'][:] = row['targets'][:] = pad_id
  return row | {'weights': np.zeros(length, np.float32)}


def to_bytes(row: dict[str, np.ndarray]) -> bytes:
  """Serializes a row: the fields in the order of FIELDS, little-endian."""
  ints = [row[name].astype('<i4').tobytes() for name in FIELDS[:-1]]
  return b''.join(ints) + row['weights'].astype('<f4').tobytes()


def from_bytes(record: bytes) -> dict[str, np.ndarray]:
  """Parses a record of `to_bytes`; L follows from the record's size."""
  words = np.frombuffer(record, '<i4').reshape(len(FIELDS), -1)
  row = {
    name: column.astype(np.int32)
    for name, column in zip(FIELDS[:-1], words[:-1], strict=True)
  }
  return row | {'weights': words[-1].view('<f4').astype(np.float32)}


def with_texts(fields: bytes, texts: Sequence[str]) -> bytes:
  """Appends a text for each example to the record of a row.

  Args:
    fields: a record of `to_bytes`.
    texts: texts in the order of the examples.
  """
  data = json.dumps(list(texts), ensure_ascii=False).encode()
  return fields + data + np.array(len(data), '<i4').tobytes()


def split_texts(record: bytes) -> tuple[bytes, list[str]]:
  """Splits a record into the arguments of `with_texts`."""
  (size,) = np.frombuffer(record[-4:], '<i4')
  begin = len(record) - 4 - int(size)
  return record[:begin], json.loads(record[begin:-4])
