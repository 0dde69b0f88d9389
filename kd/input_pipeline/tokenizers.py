"""Loads SentencePiece tokenizers: of bytes, a file, a folder or a GGUF."""

from collections.abc import Sequence
import functools
import hashlib
import json
import os
import struct
import tempfile
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from kd.core import errors
from kd.core import paths
from kd.core import text_files
from kd.input_pipeline import hf_folders
from kd.input_pipeline import sentencepiece_models

MODEL_FILE = hf_folders.MODEL_FILE
KINDS = ('bytes', 'model', 'gguf', 'hf', 'workdir')
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
_LEGAL = "'bytes', 'model:FILE', 'gguf:FILE', 'hf:DIR' or 'workdir:DIR'"


class Tokenizer:
  """Text to ids and back, without TensorFlow.

  Attributes:
    model_proto: the serialized SentencePiece model.
    pieces: (piece, score, type) by id.
    vocab_size: number of ids.
    pad_id: the padding's id; the EOS id where the model has no padding piece.
    bos_id: put in front of every text by the caller, never by `encode`.
    eos_id: ends a plain text.
    unk_id: stands for what the model cannot write.
    start_of_turn_id: id as which `<start_of_turn>` is read in text, or None.
    end_of_turn_id: the same of `<end_of_turn>`.
    stop_ids: the ids that end a generated answer.
    digest: sha256 (hex); equal digests mean equal ids for every text, and equal
      texts for all ids.
  """

  def __init__(self, model_proto: bytes, name: str = 'tokenizer'):
    """Builds the tokenizer.

    Args:
      model_proto: a serialized SentencePiece ModelProto.
      name: what to call the model in errors: its file or config path.

    Raises:
      ConfigError: the bytes are no SentencePiece model, or it lacks BOS or EOS.
    """
    self.model_proto = model_proto
    self._processor = sentencepiece.SentencePieceProcessor()
    proto = sentencepiece_models.parse(model_proto, name)
    try:
      self._processor.LoadFromSerializedProto(model_proto)
    except (RuntimeError, ValueError) as e:
      raise sentencepiece_models.is_none(name, e) from e
    self.pieces = [(p.piece, p.score, p.type) for p in proto.pieces]
    self.vocab_size = len(self.pieces)
    self.bos_id = self._special(name, 'bos')
    self.eos_id = self._special(name, 'eos')
    self.unk_id = self._processor.unk_id()
    pad_id = self._processor.pad_id()
    self.pad_id = pad_id if pad_id >= 0 else self.eos_id
    self.start_of_turn_id = self._find(sentencepiece_models.START_OF_TURN)
    self.end_of_turn_id = self._find(sentencepiece_models.END_OF_TURN)
    stops = (self.eos_id, self.end_of_turn_id)
    self.stop_ids = tuple(i for i in stops if i is not None)
    self.digest = self._digest(proto)
    kind = sentencepiece_models.Type
    self._silent = {
      i
      for i, p in enumerate(self.pieces)
      if p[2] in (kind.CONTROL, kind.UNUSED)
    }

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without BOS or EOS.

    Raises:
      ConfigError: the text has half of a surrogate pair.
    """
    text_files.check_unicode(text, 'text to tokenize')
    return self._processor.encode(text)

  def encode_with_offsets(
    self, text: str
  ) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a text and the characters each came from.

    Args:
      text: any text.

    Returns:
      ids without BOS, and for each the (begin, end) of its characters in
      `text`; each byte of a character has that whole character.

    Raises:
      ConfigError: the text has half of a surrogate pair.
    """
    text_files.check_unicode(text, 'text to tokenize')
    out = self._processor.encode(text, return_type='offset_mapping')
    # SentencePiece gives a character that falls apart into bytes to the last of
    # them, and nothing to the others.
    offsets = [(begin, max(end, begin + 1)) for begin, end in out['offsets']]
    return out['ids'], offsets

  def decode(self, ids: Sequence[int]) -> str:
    """Text of ids; control ids and ids beyond the vocabulary say nothing."""
    kept = [
      int(i)
      for i in ids
      if 0 <= i < self.vocab_size and int(i) not in self._silent
    ]
    return self._processor.decode(kept)

  @functools.cached_property
  def _model_directory(self) -> tempfile.TemporaryDirectory:
    directory = tempfile.TemporaryDirectory(prefix='kd-tokenizer-')
    with open(os.path.join(directory.name, MODEL_FILE), 'wb') as f:
      f.write(self.model_proto)
    return directory

  def vocabulary(self) -> Any:
    """The same model as a `seqio.SentencePieceVocabulary`.

    Its file is gone when this tokenizer is.

    Returns:
      The vocabulary.
    """
    import seqio  # Brings TensorFlow along: 5 s and 880 MB.

    path = os.path.join(self._model_directory.name, MODEL_FILE)
    return seqio.SentencePieceVocabulary(path)

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
    """Returns the SHA-256 (hex) of the pieces by id, and of the settings."""
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
    # Gemma's own settings add nothing: rows, caches and runs were identified by
    # the pieces alone once, and stay valid where that identifies them.
    if settings != _GEMMA_SETTINGS:
      digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()

  def _find(self, piece: str) -> int | None:
    ids = self._processor.encode(piece)
    return ids[0] if len(ids) == 1 and self.pieces[ids[0]][0] == piece else None


def load(spec: str, path: str = 'tokenizer') -> Tokenizer:
  """Loads the tokenizer that a config names.

  Args:
    spec: 'bytes', 'model:FILE' (SentencePiece), 'gguf:FILE' (the vocabulary in
      it), 'hf:DIR' (see hf_folders) or 'workdir:DIR' (a run's own).
    path: the config path of the spec, for errors.

  Returns:
    The tokenizer.

  Raises:
    ConfigError: an unknown kind, a missing file, or a file of another kind.
  """
  kind, colon, where = spec.partition(':')
  if kind not in KINDS:
    raise errors.ConfigError(
      path,
      f'unknown tokenizer {spec!r}',
      legal=_LEGAL,
      nearest=errors.nearest(kind, KINDS),
    )
  if kind == 'bytes':
    if colon:
      raise errors.ConfigError(
        path,
        f"found {spec!r}: 'bytes' takes no file",
        legal=_LEGAL,
        nearest='bytes',
      )
    return Tokenizer(sentencepiece_models.from_bytes(), path)
  if not where:
    raise errors.ConfigError(path, f'{spec!r} names no file', legal=_LEGAL)
  where = paths.expand(where)
  if kind == 'workdir':
    where = os.path.join(where, MODEL_FILE)
  try:
    return Tokenizer(_model_proto(kind, where), where)
  except errors.ConfigError as e:
    raise errors.ConfigError(path, str(e)) from e


def _model_proto(kind: str, where: str) -> bytes:
  """Returns the serialized model in a GGUF, a folder or a file."""
  if kind == 'gguf':
    return sentencepiece_models.from_gguf(where)
  if kind == 'hf':
    return hf_folders.model(where)
  if not os.path.isfile(where):
    raise errors.ConfigError(
      where, 'no such file', legal='a SentencePiece model file'
    )
  with open(where, 'rb') as f:
    return f.read()


def for_source(init: str, path: str) -> Tokenizer | None:
  """Loads the tokenizer that comes with weights.

  Args:
    init: where weights come from: 'hf:DIR', 'gguf:FILE', 'workdir:DIR', or a
      source that carries no tokenizer ('random', 'teacher').
    path: the config path of `init`, for errors.

  Returns:
    The tokenizer, or None where the source carries none.

  Raises:
    ConfigError: as `load`.
  """
  if init.partition(':')[0] not in ('hf', 'gguf', 'workdir'):
    return None
  return load(init, path)
