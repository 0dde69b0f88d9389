"""Compares the texts of a server's tokens with those of the tokenizer."""

import collections
import functools

from kd.core import errors
from kd.input_pipeline import tokenizers

_BROKEN = '\N{REPLACEMENT CHARACTER}'
_PROBE = '12 + 30 = 42. The capital of France is Paris, and water boils.'
_PROBE_TOKENS = 24
_SPACE = '\N{LOWER ONE EIGHTH BLOCK}'  # A space in SentencePiece's pieces.


class Vocabulary:
  """The texts of a tokenizer's ids in servers' replies; thread-safe."""

  def __init__(self, tokenizer: tokenizers.Tokenizer):
    self._tokenizer = tokenizer
    self._texts = functools.lru_cache(maxsize=1 << 18)(self._texts_of)

  @functools.cached_property
  def probe(self) -> tuple[int, ...]:
    """The ids of the text whose log-probabilities identify a model."""
    begin = self._tokenizer.bos_id
    ids = self._tokenizer.encode(_PROBE)
    return (*(() if begin is None else (begin,)), *ids[:_PROBE_TOKENS])

  @property
  def size(self) -> int:
    """The number of ids."""
    return self._tokenizer.vocab_size

  def is_plain(self, index: int) -> bool:
    """Returns whether a server returns an id's text when the id is drawn."""
    if index in self._tokenizer.stop_ids:
      return False
    text = self._tokenizer.decode([index])
    return bool(text) and _BROKEN not in text

  @functools.cached_property
  def plain_id(self) -> int:
    """The first id that is plain text."""
    return next(i for i in range(self.size) if self.is_plain(i))

  def check(self, index: int, text: str, position: int) -> None:
    """Raises if a server's text of an id differs from the tokenizer's.

    Texts of incomplete characters are not compared.

    Args:
      index: the id.
      text: text in the server's reply.
      position: position of the token in its prompt, for the message.

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
      return frozenset()  # Servers show incomplete characters differently.
    texts = {piece, piece.replace(_SPACE, ' '), decoded}
    # Some servers drop the leading space of a word.
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
    """Returns the id of a text if it is the only one, else None."""
    found = self._by_text.get(text, ())
    return found[0] if len(found) == 1 else None
