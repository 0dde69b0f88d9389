"""The base class of the tokenizers."""

import abc
from collections.abc import Collection, Sequence
import functools


class BaseTokenizer(abc.ABC):
  """Looks up the ids of marks, and drops ids without text.

  Attributes:
    vocab_size: number of ids.
    image_ids: see tokenizers.Tokenizer.
  """

  vocab_size: int
  image_ids: tuple[int, int, int] | None = None
  _silent: Collection[int | None]  # Ids without text.

  @abc.abstractmethod
  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text; see tokenizers.Tokenizer."""

  @abc.abstractmethod
  def text_of(self, index: int) -> str:
    """Returns a token as its file writes it."""

  @abc.abstractmethod
  def bytes_of(self, index: int) -> bytes | None:
    """Returns the bytes of a token; see tokenizers.Tokenizer."""

  @functools.cached_property
  def _known(self) -> dict[str, int | None]:
    return {}

  def id_of(self, text: str) -> int | None:
    """Returns the id of a text; None if it is not encoded as one token.

    Cached, since templates look up the same few marks for every example.
    """
    if text not in self._known:
      ids = self.encode(text)
      is_token = len(ids) == 1 and self.text_of(ids[0]) == text
      self._known[text] = ids[0] if is_token else None
    return self._known[text]

  def _with_text(self, ids: Sequence[int]) -> list[int]:
    """Returns the ids that `decode` passes to the library."""
    return [
      int(i)
      for i in ids
      if 0 <= i < self.vocab_size and int(i) not in self._silent
    ]
