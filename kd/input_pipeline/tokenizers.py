"""Loads tokenizers from files, folders, GGUFs and runs."""

from collections.abc import Sequence
import os
from typing import Protocol

import numpy as np

from kd.core import errors
from kd.core import paths
from kd.input_pipeline import added_tokens
from kd.input_pipeline import byte_level
from kd.input_pipeline import byte_level_tokenizer
from kd.input_pipeline import gguf_vocabularies
from kd.input_pipeline import hf_folders
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import sentencepiece_tokenizer

KINDS = ('bytes', 'model', 'gguf', 'hf', 'workdir')
_LEGAL = "'bytes', 'model:FILE', 'gguf:FILE', 'hf:DIR' or 'workdir:DIR'"


class Tokenizer(Protocol):
  """Converts text to ids and back, without TensorFlow.

  Attributes:
    vocab_size: number of ids.
    pad_id: the padding's id; the EOS id where the model has no padding token.
    bos_id: begins every text, put there by the caller and never by `encode`;
      None for a model whose texts begin without one.
    eos_id: ends a plain text.
    stop_ids: the ids that end a generated answer.
    image_ids: what begins an image, stands for each of its soft tokens, and
      ends it; None for a vocabulary without images. That of soft tokens may be
      vocab_size, as in Gemma's, which has no embedding for them.
    digest: sha256 (hex); equal digests mean equal ids for every text, and equal
      texts for all ids.
  """

  vocab_size: int
  pad_id: int
  bos_id: int | None
  eos_id: int
  stop_ids: tuple[int, ...]
  image_ids: tuple[int, int, int] | None
  digest: str

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without BOS or EOS.

    Raises:
      ConfigError: the text has half of a surrogate pair.
    """

  def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of a text and the characters that each came from.

    Args:
      text: any text.

    Returns:
      ids without BOS, int32 [n], and the (begin, end) of the characters of each
      in `text`, int32 [n, 2]; each byte of a character has that whole
      character.

    Raises:
      ConfigError: the text has half of a surrogate pair.
    """

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids.

    BOS, EOS, padding and ids beyond the vocabulary give no text; bytes that are
    no whole character give U+FFFD.

    Args:
      ids: any integers.
    """

  def text_of(self, index: int) -> str:
    """Returns a token as the tokenizer's file writes it, for messages.

    Args:
      index: an id of the vocabulary.
    """

  def bytes_of(self, index: int) -> bytes | None:
    """Returns the bytes that a token adds to a text.

    Args:
      index: an id of the vocabulary.

    Returns:
      Never b''; None for a token that stands for no text, or for an unknown
      one: BOS, EOS, padding.
    """

  def id_of(self, text: str) -> int | None:
    """Returns the id as which a text is read; None if it is not one token.

    Args:
      text: such as the mark of a turn.
    """

  def files(self) -> dict[str, bytes]:
    """Returns the files that hold the tokenizer, by name.

    Written to a folder DIR, they are what `load('workdir:DIR')` reads.
    """


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
    model = sentencepiece_models.from_bytes()
    return sentencepiece_tokenizer.SentencePieceTokenizer(model, path)
  if not where:
    raise errors.ConfigError(path, f'{spec!r} names no file', legal=_LEGAL)
  where = paths.expand(where)
  try:
    return _READERS[kind](where)
  except errors.ConfigError as e:
    raise errors.ConfigError(path, str(e)) from e


def _from_model(file: str) -> Tokenizer:
  if not os.path.isfile(file):
    raise errors.ConfigError(
      file, 'no such file', legal='a SentencePiece model file'
    )
  with open(file, 'rb') as f:
    model = f.read()
  return sentencepiece_tokenizer.SentencePieceTokenizer(model, file)


def _from_gguf(file: str) -> Tokenizer:
  fields = gguf_vocabularies.read(file)
  kind = fields['model'] if 'model' in fields else None
  if kind == 'llama':
    model = sentencepiece_models.from_gguf(fields, file)
    return sentencepiece_tokenizer.SentencePieceTokenizer(model, file)
  if kind == 'gpt2':
    return gguf_vocabularies.byte_level(fields, file)
  raise errors.ConfigError(
    file,
    f'the kind of its tokenizer is {kind!r}',
    legal="a GGUF whose tokenizer.ggml.model is 'llama' (SentencePiece) or "
    "'gpt2' (byte-level BPE)",
  )


def _from_hf(directory: str) -> Tokenizer:
  folder = hf_folders.read(directory)
  if byte_level.is_byte_level(folder.json):
    return byte_level_tokenizer.from_folder(folder)
  model = hf_folders.model(folder)
  return sentencepiece_tokenizer.SentencePieceTokenizer(model, directory)


def _from_workdir(workdir: str) -> Tokenizer:
  """Reads the files that a run keeps; see Tokenizer.files."""
  model = os.path.join(workdir, sentencepiece_models.MODEL_FILE)
  other = os.path.join(workdir, added_tokens.TOKENIZER_JSON)
  if os.path.isfile(other) and not os.path.isfile(model):
    return byte_level_tokenizer.from_folder(added_tokens.read(workdir))
  return _from_model(model)


_READERS = {
  'model': _from_model,
  'gguf': _from_gguf,
  'hf': _from_hf,
  'workdir': _from_workdir,
}


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
