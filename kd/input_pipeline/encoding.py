"""Encodes examples as ids, and divides long documents into chunks."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from kd.core import errors
from kd.core import types
from kd.images import form as form_lib
from kd.input_pipeline import conversations
from kd.input_pipeline import image_tokens
from kd.input_pipeline import packing
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers

LONG = ('chunk', 'drop', 'refuse')


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Encodes examples for rows.

  Attributes:
    tokenizer: tokenizer of the texts.
    template: name of the chat template, of templates.TEMPLATES.
    length: L, number of positions per row.
    long: treatment of longer examples: 'chunk' divides documents and drops
      chats, 'drop' drops both, and 'refuse' raises an error.
    overlap: number of ids that a chunk repeats from the end of the previous
      one. They have weight 0, so that each id is a target once.
    form: format of the model's images; None if it takes none.
  """

  tokenizer: tokenizers.Tokenizer
  template: str
  length: int
  long: str = 'chunk'
  overlap: int = 0
  form: form_lib.Form | None = None

  def encode(
    self, example: Mapping[str, Any], index: int
  ) -> list[packing.Example]:
    """Encodes an example as ids, parts and weights.

    Args:
      example: an example of examples.stream.
      index: index of the example in the prepared `examples.jsonl`.

    Returns:
      One encoded example for a chat, one or several for a document.
      packing.assign drops those that are longer than a row.

    Raises:
      ConfigError: the template cannot write the chat, or the example is longer
        than a row and `long` is 'refuse'.
    """
    document = conversations.is_document(example)
    images: tuple[image_tokens.Slot, ...] = ()
    try:
      if document:
        columns = self._document(example['text'])
      else:
        chat = conversations.messages(example)
        columns = templates.encode(
          self.tokenizer, self.template, chat, self.form
        )
        if self.form is not None:
          images = tuple(sum(image_tokens.slots(chat, self.form), []))
    except errors.ConfigError as e:
      where = f'data.mixture: example {example["id"]!r}: {e.path}'
      raise e.at(where) from e
    needed = len(columns[0]) - 1
    if needed > self.length:
      if self.long == 'refuse':
        raise errors.ConfigError(
          'data.long',
          f"found 'refuse', and example {example['id']!r} needs {needed:,} "
          'positions',
          legal=f'data.length {needed} or more, or data.long '
          f'{"chunk" if document else "drop"!r}',
        )
      if document and self.long == 'chunk':
        return [packing.Example(*c, index) for c in self._chunks(*columns)]
    return [packing.Example(*columns, index, images)]

  def chunk_sizes(self, positions: int, length: int) -> list[int]:
    """Returns the lengths in positions of the chunks of a document.

    Args:
      positions: number of positions of the whole document.
      length: number of positions per row.
    """
    if positions <= length:
      return [positions]
    step = length - self.overlap
    if not self._first:
      step = length + 1 - max(self.overlap, 1)
    sizes = [length] * -(-(positions - length) // step)
    return [*sizes, positions - step * len(sizes)]

  def _document(self, text):
    """Encodes a document as BOS, text and EOS; all but BOS are targets."""
    first = self._first
    ids = [*first, *self.tokenizer.encode(text), self.tokenizer.eos_id]
    weights = np.ones(len(ids), np.float32)
    weights[: len(first)] = 0
    parts = np.full(len(ids), types.ANSWER, np.int32)
    return np.array(ids, np.int32), parts, weights

  @property
  def _first(self):
    bos = self.tokenizer.bos_id
    return [] if bos is None else [bos]

  def _chunks(self, ids, parts, weights) -> Iterator[Sequence[np.ndarray]]:
    """Yields the columns of each chunk, which begins with BOS, if any."""
    first = len(self._first)
    size = self.length + 1 - first
    # The first id of a row is never predicted: without BOS it is context.
    overlap = max(self.overlap, 1 - first)
    begin = first
    while True:
      chunk = slice(begin, begin + size)
      context = overlap if begin > first else 0
      columns = [np.append(x[:first], x[chunk]) for x in (ids, parts, weights)]
      columns[-1][first : first + context] = 0
      yield columns
      if begin + size >= len(ids):
        return
      begin += size - overlap
