"""Loads tokenizers from files, folders, GGUF files and runs."""

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
    pad_id: id of padding; the EOS id if the model has no padding token.
    bos_id: id at the beginning of every text, added by the caller and not by
      `encode`; None for a model without BOS.
    eos_id: id at the end of a plain text.
    stop_ids: ids that end a generated answer.
    image_ids: ids of an image's start, soft tokens and end; None for a
      vocabulary without images. The id of soft tokens may be vocab_size, as for
      Gemma, which has no embedding for them.
    digest: SHA-256 (hex); equal digests mean equal ids for every text, and
      equal texts for all ids.
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
      ConfigError: the text contains half of a surrogate pair.
    """

  def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of a text and the range of characters of each.

    Args:
      text: any text.

    Returns:
      ids without BOS, int32 [n], and the (begin, end) of each id's characters
      in `text`, int32 [n, 2]; the range of a byte is its whole character.

    Raises:
      ConfigError: the text contains half of a surrogate pair.
    """

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids.

    BOS, EOS, padding and ids beyond the vocabulary are dropped. Bytes of
    incomplete characters are decoded as U+FFFD.

    Args:
      ids: any integers.
    """

  def text_of(self, index: int) -> str:
    """Returns the text of a token in the tokenizer's file, for messages.

    Args:
      index: an id of the vocabulary.
    """

  def bytes_of(self, index: int) -> bytes | None:
    """Returns the bytes that a token adds to a text.

    Args:
      index: an id of the vocabulary.

    Returns:
      The bytes, never b''; None for a token without text (BOS, EOS, padding)
      and for the unknown token.
    """

  def id_of(self, text: str) -> int | None:
    """Returns the id of a text; None if it is not encoded as one token.

    Args:
      text: a text such as the mark of a turn.
    """

  def files(self) -> dict[str, bytes]:
    """Returns the contents of the tokenizer's files by name.

    When written to a folder DIR, `load('workdir:DIR')` reads them.
    """


def load(spec: str, path: str = 'tokenizer') -> Tokenizer:
  """Loads the tokenizer of a spec.

  Args:
    spec: 'bytes', 'model:FILE' (SentencePiece), 'gguf:FILE' (its vocabulary),
      'hf:DIR' (see hf_folders) or 'workdir:DIR' (that of a run).
    path: config path of the spec, for errors.

  Returns:
    The tokenizer.

  Raises:
    ConfigError: the kind is unknown, or the file is missing or invalid.
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
    f'has a tokenizer of type {kind!r}',
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
  """Reads the files of a run; see Tokenizer.files."""
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
    init: source of the weights: 'hf:DIR', 'gguf:FILE', 'workdir:DIR', or a
      source without a tokenizer ('random', 'teacher').
    path: config path of `init`, for errors.

  Returns:
    The tokenizer, or None if the source has none.

  Raises:
    ConfigError: see `load`.
  """
  if init.partition(':')[0] not in ('hf', 'gguf', 'workdir'):
    return None
  return load(init, path)
