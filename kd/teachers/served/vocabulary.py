"""Compares the texts of a server's tokens with those of the tokenizer."""

import collections
import functools

from kd.core import errors
from kd.input_pipeline import tokenizers

_BROKEN = '\N{REPLACEMENT CHARACTER}'
_PROBE = '12 + 30 = 42. The capital of France is Paris, and water boils.'
_PROBE_TOKENS = 24
_SPACE = '\N{LOWER ONE EIGHTH BLOCK}'  # In SentencePiece's files.


class Vocabulary:
  """The texts by which servers name the ids of a tokenizer.

  Thread-safe.
  """

  def __init__(self, tokenizer: tokenizers.Tokenizer):
    self._tokenizer = tokenizer
    self._texts = functools.lru_cache(maxsize=1 << 18)(self._texts_of)

  @functools.cached_property
  def probe(self) -> tuple[int, ...]:
    """Returns the ids of the text that identifies a model."""
    begin = self._tokenizer.bos_id
    ids = self._tokenizer.encode(_PROBE)
    return (*(() if begin is None else (begin,)), *ids[:_PROBE_TOKENS])

  @property
  def size(self) -> int:
    """Returns the number of ids."""
    return self._tokenizer.vocab_size

  def is_plain(self, index: int) -> bool:
    """Returns whether an id is text that a server can tell when it is drawn."""
    if index in self._tokenizer.stop_ids:
      return False
    text = self._tokenizer.decode([index])
    return bool(text) and _BROKEN not in text

  @functools.cached_property
  def plain_id(self) -> int:
    """Returns the first id that is plain text."""
    return next(i for i in range(self.size) if self.is_plain(i))

  def check(self, index: int, text: str, position: int) -> None:
    """Raises if a server's text of an id is not the tokenizer's.

    What is no text of its own, such as half a character, is not compared.

    Args:
      index: the id.
      text: as the server has it.
      position: of the token in its prompt, for the message.

    Raises:
      ConfigError: the texts differ.
    """
    if index >= self.size or not text or _BROKEN in text:
      return
    own = self._texts(index)
    if own and text not in own and text.strip() not in own:
      raise errors.ConfigError(
        'teacher.server.model',
        f'position {position}: id {index} is {text!r} there, and '
        f"{sorted(own)[0]!r} in the student's tokenizer",
        legal="a model with the student's tokenizer",
      )

  def _texts_of(self, index):
    piece = self._tokenizer.text_of(index)
    decoded = self._tokenizer.decode([index])
    if _BROKEN in decoded:
      return frozenset()  # Servers show half a character in different ways.
    texts = {piece, piece.replace(_SPACE, ' '), decoded}
    # Some drop the space that a word begins with.
    return frozenset(texts | {text.strip() for text in texts})

  @functools.cached_property
  def _by_text(self):
    ids = collections.defaultdict(list)
    for index in range(self.size):
      decoded = self._tokenizer.decode([index])
      for text in {self._tokenizer.text_of(index), decoded}:
        if text and _BROKEN not in text:
          ids[text].append(index)
    return ids

  def id_of(self, text: str) -> int | None:
    """Returns the only id that a server may mean by a text, or None."""
    found = self._by_text.get(text, ())
    return found[0] if len(found) == 1 else None
