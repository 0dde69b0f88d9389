"""Counts what examples consist of, before rows are made of them."""

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

_KEY_BYTES = 8  # of a digest; two of a billion examples hardly share one


class Statistics:
  """Counts the examples of one source, added one at a time.

  Holds a number and two digests of each example, and no text.

  Attributes:
    tokens: ids that the model predicts, counted in whole examples.
    supervised: those with a weight above 0.
    weight: the sum of their weights.
    empty: examples in which the model says nothing.
    duplicates: examples whose ids and weights an earlier one has.
    prompts: digests of the prompts.
    image_sizes: widths and heights of the images, and how many have them.
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
    self._images: list[int] = []  # Of each chat.

  def add(self, example: Mapping[str, Any], whole: packing.Example) -> None:
    """Counts an example.

    Args:
      example: as examples.stream yields it.
      whole: the same, encoded and not divided.
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
    """Returns the positions that each example needs, undivided."""
    return np.array(self._lengths[False] + self._lengths[True], np.int64)

  @property
  def examples(self) -> int:
    return sum(map(len, self._lengths.values()))

  def pieces(self, length: int) -> list[int]:
    """Returns the positions of what rows of a length are made of."""
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
    """Returns how many images a row takes."""
    return self._encoder.form.per_row if self._encoder.form else 0

  def too_long(self, length: int) -> int:
    """Returns how many examples no row of a length can hold."""
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
  """Returns how well rows of a length are used.

  Args:
    sources: of a mixture.
    length: positions of a row.
    pack: whether rows hold several examples.
    seed: of the order in which they are packed.

  Returns:
    length, rows, fill (the used share of positions) and too_long.
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
  """Returns (shortest, longest, examples) of ranges that double in length."""
  bins = []
  first = 1
  while first <= lengths.max(initial=0):
    count = np.count_nonzero((first <= lengths) & (lengths < 2 * first))
    if count or bins:
      bins.append((first, 2 * first - 1, int(count)))
    first *= 2
  return bins
