"""Computes statistics of examples before they are packed into rows."""

import collections
from collections.abc import Mapping, Sequence
import hashlib
from typing import Any

import numpy as np

from kd.data_files import source as source_lib
from kd.images import pictures
from kd.input_pipeline import conversations
from kd.input_pipeline import encoding
from kd.input_pipeline import packing

_KEY_BYTES = 8  # of a digest; collisions are unlikely up to a billion examples


class Statistics:
  """Accumulates statistics of the examples of one source.

  Stores a length and two digests per example, but no text.

  Attributes:
    tokens: number of predicted ids in undivided examples.
    supervised: number of targets with a weight above 0.
    weight: sum of the weights of the targets.
    empty: number of examples with an empty answer or without weights.
    duplicates: number of examples with the ids, weights and images of an
      earlier one.
    prompts: digests of the prompts.
    image_sizes: number of images by (width, height).
  """

  def __init__(self, encoder: encoding.Encoder):
    self._encoder = encoder
    self.tokens = self.supervised = self.empty = self.duplicates = 0
    self.weight = 0.0
    self.prompts: set[bytes] = set()
    self._examples: set[bytes] = set()
    self._lengths: dict[bool, list[int]] = {False: [], True: []}
    self.image_sizes: collections.Counter[tuple[int, int]] = (
      collections.Counter()
    )
    self._images: list[int] = []  # Number of images of each chat.

  def add(self, example: Mapping[str, Any], whole: packing.Example) -> None:
    """Counts an example.

    Args:
      example: an example of examples.stream.
      whole: the same example, encoded and undivided.
    """
    is_document = conversations.is_document(example)
    weights = whole.weights[1:]
    self.tokens += whole.positions
    self.supervised += int(np.count_nonzero(weights))
    self.weight += float(weights.sum())
    answer = example['text'] if is_document else None
    answer = conversations.reference(example) if answer is None else answer
    self.empty += not answer.strip() or not weights.any()
    files = [slot.data for slot in whole.images]
    key = _digest(b''.join([whole.ids, whole.weights, *files]))
    self.image_sizes.update(
      pictures.size(slot.data) for slot in whole.images if not slot.crop
    )
    self.duplicates += key in self._examples
    self._examples.add(key)
    self.prompts.add(_digest(source_lib.prompt_key(example).encode('utf-8')))
    self._lengths[is_document].append(whole.positions)
    if not is_document:
      self._images.append(len(whole.images))

  @property
  def lengths(self) -> np.ndarray:
    """Returns the number of positions of each undivided example."""
    return np.array(self._lengths[False] + self._lengths[True], np.int64)

  @property
  def examples(self) -> int:
    return sum(map(len, self._lengths.values()))

  def pieces(self, length: int) -> list[int]:
    """Returns the lengths of the pieces that are packed into rows."""
    documents = self._lengths[True]
    if self._encoder.long == 'chunk':
      documents = [
        n for size in documents for n in self._encoder.chunk_sizes(size, length)
      ]
    return self._lengths[False] + documents

  def images(self, length: int) -> list[int]:
    """Returns the number of images of each of `pieces`."""
    documents = len(self.pieces(length)) - len(self._images)
    return self._images + [0] * documents

  @property
  def per_row(self) -> int:
    """Returns the maximum number of images per row."""
    return self._encoder.form.per_row if self._encoder.form else 0

  def too_long(self, length: int) -> int:
    """Returns the number of pieces that do not fit into a row of a length."""
    pieces = zip(self.pieces(length), self.images(length), strict=True)
    return sum(n > length or m > self.per_row for n, m in pieces)

  def counts(self, length: int) -> dict[str, Any]:
    """Returns all counts by name, for rows of a length."""
    images = {'images': self._counted_images()} if self.image_sizes else {}
    return {
      **images,
      'examples': self.examples,
      'tokens': self.tokens,
      'supervised_tokens': self.supervised,
      'target_weight': self.weight,
      'too_long': self.too_long(length),
      'duplicates': self.duplicates,
      'empty': self.empty,
    }

  def _counted_images(self) -> dict[str, Any]:
    widths, heights = zip(*self.image_sizes, strict=True)
    return {
      'count': self.image_sizes.total(),
      'smallest': [min(widths), min(heights)],
      'largest': [max(widths), max(heights)],
    }


def _digest(data: bytes) -> bytes:
  return hashlib.blake2b(data, digest_size=_KEY_BYTES).digest()


def packing_at(
  sources: Sequence[Statistics], length: int, pack: bool, seed: int
) -> dict[str, int | float]:
  """Returns statistics of packing at a row length.

  Args:
    sources: the sources of a mixture.
    length: number of positions per row.
    pack: whether rows contain several examples.
    seed: seed of the order in which examples are packed.

  Returns:
    length, rows, fill (fraction of positions used) and too_long.
  """
  rows = used = 0
  for source in sources:
    pieces = np.array(source.pieces(length), np.int64)
    images = np.array(source.images(length), np.int64)
    if pack:
      order = np.arange(len(pieces))
      np.random.default_rng(seed).shuffle(order)
      pieces, images = pieces[order], images[order]
    pieces = pieces.tolist()
    of_source, _ = packing.assign(
      pieces, length, pack, images.tolist(), source.per_row
    )
    rows += len(of_source)
    used += sum(pieces[i] for row in of_source for i in row)
  return {
    'length': length,
    'rows': rows,
    'fill': used / (rows * length) if rows else 0.0,
    'too_long': sum(source.too_long(length) for source in sources),
  }


def histogram(lengths: np.ndarray) -> list[tuple[int, int, int]]:
  """Returns (shortest, longest, count) for ranges that double in length."""
  bins = []
  first = 1
  while first <= lengths.max(initial=0):
    count = np.count_nonzero((first <= lengths) & (lengths < 2 * first))
    if count or bins:
      bins.append((first, 2 * first - 1, int(count)))
    first *= 2
  return bins
