"""Examples to rows of a fixed length, without losing or cutting a token."""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any

import numpy as np

# A record holds them in this order: numbers of four bytes each, the weights
# alone floats.
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
  """One tokenized example of n ids.

  Attributes:
    ids: int32 [n], BOS first if the tokenizer has one.
    parts: int32 [n], the part of the answer that each id belongs to, as
      `types.Batch.parts` has it.
    weights: float32 [n], what each id counts for as a target.
    index: its place in the prepared `examples.jsonl`.
    images: as image_rows.Slots, in the order of their tokens.
  """

  ids: np.ndarray
  parts: np.ndarray
  weights: np.ndarray
  index: int
  images: tuple[Any, ...] = ()

  @property
  def positions(self) -> int:
    """How many positions of a row it needs: the last id is only a target."""
    return len(self.ids) - 1


def assign(
  lengths: Sequence[int],
  length: int,
  pack: bool,
  images: Sequence[int] | None = None,
  per_row: int = 0,
) -> tuple[list[list[int]], list[int]]:
  """Decides which examples share a row.

  Packing is first-fit in the given order: an example goes into the first open
  row with room for it, so rows hold a mix of the order they came in.

  Args:
    lengths: positions that each example needs.
    length: positions of a row, L.
    pack: whether examples share rows at all.
    images: the number of images of each example; None: none has any.
    per_row: images of a row at most.

  Returns:
    For each row the numbers of its examples, and the numbers of the examples
    that no row has room for.
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
  """The first row with room for an example, found in log time.

  A tournament tree over rows holds the largest room of each half, and the most
  images that a row of it still takes.
  """

  def __init__(self, rows: int, length: int, per_row: int):
    self._leaves = 1 << max(rows - 1, 0).bit_length()
    self._largest = [length] * (2 * self._leaves)
    self._most = [per_row] * (2 * self._leaves)

  def take(self, amount: int, images: int) -> int:
    """Takes room for positions and images; returns the row it is in."""
    leaf = node = self._first(1, amount, images)
    self._largest[node] -= amount
    self._most[node] -= images
    while node > 1:
      node //= 2
      for tree in (self._largest, self._most):
        tree[node] = max(tree[2 * node], tree[2 * node + 1])
    return leaf - self._leaves

  def _first(self, node, amount, images):
    """Returns the first leaf below a node with room for both, 0 for none."""
    if self._largest[node] < amount or self._most[node] < images:
      return 0
    if node >= self._leaves:
      return node
    return self._first(2 * node, amount, images) or self._first(
      2 * node + 1, amount, images
    )


def fill(
  examples: Sequence[Example], length: int, pad_id: int
) -> dict[str, np.ndarray]:
  """Lays examples side by side in one row.

  An example of n ids takes n - 1 positions: token t predicts target t, which is
  the id after it, so no target ever comes from the next example.

  Args:
    examples: in their order; they need `length` positions or fewer.
    length: L.
    pad_id: fills tokens and targets of the rest.

  Returns:
    By name of FIELDS: float32 [L] weights; int32 [L] all others.

  Raises:
    ValueError: the examples do not fit.
  """
  if sum(e.positions for e in examples) > length:
    raise ValueError(f'the examples do not fit in a row of {length}')
  row = empty(length, pad_id)
  begin = 0
  for segment, example in enumerate(examples, start=1):
    end = begin + example.positions
    row['tokens'][begin:end] = example.ids[:-1]
    row['targets'][begin:end] = example.ids[1:]
    row['positions'][begin:end] = np.arange(example.positions)
    row['segment_ids'][begin:end] = segment
    row['parts'][begin:end] = example.parts[1:]
    row['weights'][begin:end] = example.weights[1:]
    begin = end
  return row


def empty(length: int, pad_id: int) -> dict[str, np.ndarray]:
  """A row of padding alone: segment 0, weight 0; fields as `fill`."""
  row = {name: np.zeros(length, np.int32) for name in FIELDS[:-1]}
  row['tokens'][:] = row['targets'][:] = pad_id
  return row | {'weights': np.zeros(length, np.float32)}


def to_bytes(row: dict[str, np.ndarray]) -> bytes:
  """One record: the fields in the order of FIELDS, little-endian."""
  ints = [row[name].astype('<i4').tobytes() for name in FIELDS[:-1]]
  return b''.join(ints) + row['weights'].astype('<f4').tobytes()


def from_bytes(record: bytes) -> dict[str, np.ndarray]:
  """The inverse of `to_bytes`; L follows from the record's size."""
  words = np.frombuffer(record, '<i4').reshape(len(FIELDS), -1)
  row = {
    name: column.astype(np.int32)
    for name, column in zip(FIELDS[:-1], words[:-1], strict=True)
  }
  return row | {'weights': words[-1].view('<f4').astype(np.float32)}


def with_texts(fields: bytes, texts: Sequence[str]) -> bytes:
  """Returns a record of a row that has a text for each of its examples.

  Args:
    fields: from `to_bytes`.
    texts: in the order of the examples.
  """
  data = json.dumps(list(texts), ensure_ascii=False).encode()
  return fields + data + np.array(len(data), '<i4').tobytes()


def split_texts(record: bytes) -> tuple[bytes, list[str]]:
  """Returns the arguments of `with_texts`."""
  (size,) = np.frombuffer(record[-4:], '<i4')
  begin = len(record) - 4 - int(size)
  return record[:begin], json.loads(record[begin:-4])
