"""Encodes texts with SentencePiece's BPE word by word, and keeps short words.

BPE merges two neighbors only if the result is a piece. If no piece contains a
space after another character, no merge joins two words, so the ids of a text
are the ids of its words. Gemma's vocabulary has one such piece; texts that
contain it are encoded as a whole.
"""

import array
from collections.abc import Sequence
import re

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from kd.input_pipeline import sentencepiece_models

_SPACE = sentencepiece_models.SPACE
# A word is a run of other characters with the spaces before it.
_words = re.compile(' *[^ ]+| +').findall
_LONGEST = 32  # Number of characters and of ids of the words that are kept.
_MOST = 1 << 16  # Number of words that are kept, in 10 to 30 MB.
_MOST_JOINING = 16  # Number of pieces whose texts are searched for.
_FIRST = 1 << 14  # Number of words that are encoded before hits are expected.
# Number of texts that are encoded as a whole after one of mostly new words.
_WHOLE = 31


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
  pieces = [p.piece for p in proto.pieces]
  found = [x for x in pieces if _SPACE in x.lstrip(_SPACE)]
  if len(found) > _MOST_JOINING:
    return None
  # SentencePiece treats U+2581 in a text as a space.
  return _SPACE, *(piece.replace(_SPACE, ' ') for piece in found)


class WordCache(dict[str, bytes]):
  """Caches the ids of words, int32.

  The words of tables, hashes and texts without spaces seldom repeat, and take
  several times as long one by one. After a text of mostly new words, the next
  texts are encoded as a whole.
  """

  def __init__(
    self,
    processor: sentencepiece.SentencePieceProcessor,
    joining: Sequence[str],
  ):
    """Initializes an empty cache.

    Args:
      processor: encodes the words.
      joining: result of `joining`.
    """
    super().__init__()
    self._processor, self._joining = processor, joining
    self._encoded = 0  # Number of words that the processor has encoded.
    self._whole_texts = 0  # Number of texts to encode as a whole.

  def encode(self, text: str) -> np.ndarray:
    """Returns the same ids as the processor, int32 [n]."""
    if self._whole_texts:
      self._whole_texts -= 1
      return self._processor.encode(text, return_type='numpy')
    for whole in self._joining:
      if whole in text:
        return self._processor.encode(text, return_type='numpy')
    words, encoded = _words(text), self._encoded
    ids = np.frombuffer(b''.join(map(self.__getitem__, words)), np.int32)
    if self._encoded > max(_FIRST, encoded + len(words) // 2):
      self._whole_texts = _WHOLE
    return ids

  def __missing__(self, word: str) -> bytes:
    ids = array.array('i', self._processor.encode(word))
    self._encoded += 1
    data = ids.tobytes()
    if max(len(word), len(ids)) <= _LONGEST:
      if len(self) >= _MOST:
        self.clear()
      self[word] = data
    return data
