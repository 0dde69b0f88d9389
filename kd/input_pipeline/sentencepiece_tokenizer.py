"""SentencePiece tokenizers: Gemma's and the byte tokenizer."""

from collections.abc import Sequence
import functools
import hashlib
import json
import struct

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from kd.core import errors
from kd.core import text_files
from kd.input_pipeline import base_tokenizer
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import word_cache
from kd.models import families

_GEMMA_SETTINGS = {
  'model_type': 'bpe',
  'treat_whitespace_as_suffix': False,
  'normalizer': '',
  'add_dummy_prefix': False,
  'remove_extra_whitespaces': False,
  'escape_whitespaces': True,
  'special_ids': [0, 1, 2, 3],
  'unk_surface': ' \u2047 ',
  'denormalizer': '',
}


class SentencePieceTokenizer(base_tokenizer.BaseTokenizer):
  """Converts text to ids and back; see tokenizers.Tokenizer.

  Attributes:
    model_proto: the serialized SentencePiece model.
    pieces: (piece, score, type) by id.
    unk_id: id of unknown text.
  """

  def __init__(self, model_proto: bytes, name: str = 'tokenizer'):
    """Builds the tokenizer.

    Args:
      model_proto: a serialized SentencePiece ModelProto.
      name: file or config path of the model, for errors.

    Raises:
      ConfigError: the bytes are not a SentencePiece model with BOS and EOS.
    """
    self.model_proto = model_proto
    self._processor = sentencepiece.SentencePieceProcessor()
    proto = sentencepiece_models.parse(model_proto, name)
    try:
      self._processor.LoadFromSerializedProto(model_proto)
    except (RuntimeError, ValueError) as e:
      raise sentencepiece_models.not_a_model(name, e) from e
    self._alters_text = bool(sentencepiece_models.alters_text(proto))
    joining = None if self._alters_text else word_cache.joining(proto)
    self._words = None
    if joining is not None:
      self._words = word_cache.WordCache(self._processor, joining)
    self.pieces = [(p.piece, p.score, p.type) for p in proto.pieces]
    self.vocab_size = len(self.pieces)
    self.bos_id: int = self._special(name, 'bos')
    self.eos_id = self._special(name, 'eos')
    self.unk_id = self._processor.unk_id()
    pad_id = self._processor.pad_id()
    self.pad_id = pad_id if pad_id >= 0 else self.eos_id
    ends = (self.id_of(marks.end) for marks in families.turn_marks())
    self.stop_ids = (self.eos_id, *(i for i in ends if i is not None))
    self.image_ids = sentencepiece_models.image_ids(self.pieces)
    self.digest = self._digest(proto)
    kind = sentencepiece_models.Type
    self._silent = {
      i
      for i, p in enumerate(self.pieces)
      if p[2] in (kind.CONTROL, kind.UNUSED)
    }

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text; see tokenizers.Tokenizer."""
    text_files.check_unicode(text, 'text to tokenize')
    return self._ids(text).tolist()

  def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and their characters; see tokenizers.Tokenizer."""
    text_files.check_unicode(text, 'text to tokenize')
    if not self._alters_text:
      # Offsets from SentencePiece double the time. If it does not change the
      # text, they follow from the pieces.
      ids = self._ids(text)
      widths = self._widths.take(ids)
      ends = widths.cumsum()
      if len(text) == (ends[-1] if len(ends) else 0):
        # Later bytes of a character have width 0, but its offsets.
        np.maximum(widths, 1, out=widths)
        offsets = np.empty((2, len(ids)), np.int32)
        np.subtract(ends, widths, offsets[0], casting='unsafe')
        offsets[1] = ends
        return ids, offsets.T
    out = self._processor.encode(text, return_type='offset_mapping')
    ids = np.asarray(out['ids'], np.int32)
    offsets = np.asarray(out['offsets'], np.int32).reshape(-1, 2)
    # If a character is split into bytes, SentencePiece assigns it to the last
    # byte, and an empty range to the others.
    offsets[:, 1] = np.maximum(offsets[:, 1], offsets[:, 0] + 1)
    return ids, offsets

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids; see tokenizers.Tokenizer."""
    return self._processor.decode(self._with_text(ids))

  def text_of(self, index: int) -> str:
    """Returns the piece of an id."""
    return self.pieces[index][0]

  def bytes_of(self, index: int) -> bytes | None:
    """Returns the bytes of a token; see tokenizers.Tokenizer."""
    piece, _, piece_kind = self.pieces[index]
    kind = sentencepiece_models.Type
    if piece_kind == kind.BYTE:
      return bytes([int(piece[3:5], 16)])
    if piece_kind == kind.UNKNOWN or index in self._silent:
      return None
    return piece.replace(sentencepiece_models.SPACE, ' ').encode()

  def files(self) -> dict[str, bytes]:
    """Returns the contents of the tokenizer's files by name."""
    return {sentencepiece_models.MODEL_FILE: self.model_proto}

  @functools.cached_property
  def _widths(self) -> np.ndarray:
    """Number of characters that each id adds to a text, int64 [vocab_size]."""
    kind = sentencepiece_models.Type

    def width(piece, piece_kind):
      if piece_kind == kind.UNKNOWN:
        return 2**32  # Longer than any text, so that the lengths differ.
      if piece_kind == kind.BYTE:  # Only the first byte of a character counts.
        return int(int(piece[3:5], 16) & 0xC0 != 0x80)
      return len(piece)

    return np.array([width(p, k) for p, _, k in self.pieces], np.int64)

  def _ids(self, text: str) -> np.ndarray:
    """Returns the ids of a text, int32 [n]."""
    if self._words is not None:
      return self._words.encode(text)
    return self._processor.encode(text, return_type='numpy')

  def _special(self, name: str, kind: str) -> int:
    index = getattr(self._processor, f'{kind}_id')()
    if index < 0:
      raise errors.ConfigError(
        name,
        f'its tokenizer has no {kind.upper()} piece',
        legal='a SentencePiece model with BOS and EOS',
      )
    return index

  def _digest(self, proto: sentencepiece_model_pb2.ModelProto) -> str:
    """Returns the SHA-256 (hex) of the pieces by id and the settings."""
    digest = hashlib.sha256()
    for piece, score, kind in self.pieces:
      raw = piece.encode('utf-8')
      digest.update(struct.pack('<IfI', len(raw), score, kind) + raw)
    settings = {
      **sentencepiece_models.settings(proto),
      'special_ids': [self.pad_id, self.eos_id, self.bos_id, self.unk_id],
      'unk_surface': proto.trainer_spec.unk_surface,
      'denormalizer': proto.denormalizer_spec.precompiled_charsmap.hex(),
    }
    # Gemma's settings are left out: earlier versions identified rows, caches
    # and runs only by the pieces, and these must stay valid.
    if settings != _GEMMA_SETTINGS:
      digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()
