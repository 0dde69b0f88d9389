"""Encodes texts with SentencePiece's BPE word by word, and keeps short words.

BPE merges two neighbors only if the result is a piece. If no piece contains a
space after another character, no merge joins two words, so the ids of a text
are the ids of its words. Gemma's vocabulary has one such piece; texts that
contain it are encoded as a whole.
"""

import array
from collections.abc import Iterable
import re

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from kd.input_pipeline import sentencepiece_models

_SPACE = sentencepiece_models.SPACE
_JOINS_WORDS = re.compile(f'[^{_SPACE}]{_SPACE}').search
# A word is a run of other characters with the spaces before it.
_words = re.compile(' *[^ ]+| +').findall
_LONGEST = 32  # Number of characters of the longest words that are kept.
_MOST = 1 << 16  # Number of words that are kept, about 10 MB.
_MOST_JOINING = 16  # Number of pieces whose texts are searched for.


def joining(
  proto: sentencepiece_model_pb2.ModelProto,
) -> tuple[str, ...] | None:
  """Returns the texts that must not be divided at spaces.

  Args:
    proto: the model, which does not change texts before it splits them.

  Returns:
    The texts; None if the model does not encode words independently.
  """
  trainer = proto.trainer_spec
  if trainer.model_type != trainer.BPE or not trainer.byte_fallback:
    return None  # Neighbors of unknown characters share one unknown id.
  found = [p.piece for p in proto.pieces if _JOINS_WORDS(p.piece)]
  if len(found) > _MOST_JOINING:
    return None
  # SentencePiece takes its own character for a space for a space.
  return _SPACE, *(piece.replace(_SPACE, ' ') for piece in found)


class WordCache(dict[str, bytes]):
  """The ids of words, int32, computed when a word is first needed."""

  def __init__(
    self,
    processor: sentencepiece.SentencePieceProcessor,
    joining: Iterable[str],
  ):
    """Keeps no words yet.

    Args:
      processor: encodes the words.
      joining: result of the function of that name.
    """
    super().__init__()
    self._processor, self._joining = processor, tuple(joining)

  def encode(self, text: str) -> np.ndarray:
    """Returns the same ids as the processor, int32 [n]."""
    for whole in self._joining:
      if whole in text:
        return self._processor.encode(text, return_type='numpy')
    ids = b''.join(map(self.__getitem__, _words(text)))
    return np.frombuffer(ids, np.int32)

  def __missing__(self, word: str) -> bytes:
    ids = array.array('i', self._processor.encode(word)).tobytes()
    if len(word) <= _LONGEST:
      if len(self) >= _MOST:
        self.clear()
      self[word] = ids
    return ids
