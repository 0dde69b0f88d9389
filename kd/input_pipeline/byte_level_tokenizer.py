"""Runs byte-level BPE tokenizers with the `tokenizers` library."""

from collections.abc import Mapping, Sequence
import hashlib
import os
from typing import Any

import numpy as np

from kd.core import errors
from kd.core import json_files
from kd.core import text_files
from kd.input_pipeline import added_tokens
from kd.input_pipeline import base_tokenizer
from kd.input_pipeline import byte_level
from kd.models import families

GENERATION_CONFIG = 'generation_config.json'
# Stored with a run and exported unchanged.
FILES = (
  added_tokens.TOKENIZER_JSON,
  added_tokens.CONFIG,
  added_tokens.ADDED,
  'special_tokens_map.json',
  'chat_template.jinja',
  'chat_template.json',
  GENERATION_CONFIG,
)
# These take precedence over eos_token, which ends a turn in chat models. Chat
# models keep the vocabulary of their base model.
_DOCUMENT_ENDS = ('<|endoftext|>', '<|end_of_text|>')


class ByteLevelTokenizer(base_tokenizer.BaseTokenizer):
  """Converts text to ids and back; see tokenizers.Tokenizer.

  BOS, EOS and padding never match in text, so data cannot end a prompt by
  containing `<|endoftext|>`. All other added tokens match, including the marks
  of turns.

  Attributes:
    spec: the parts of tokenizer.json that affect the ids.
    tokens: text of each id.
  """

  def __init__(
    self, folder: added_tokens.Folder, files: Mapping[str, bytes], file: str
  ):
    """Builds the tokenizer.

    Args:
      folder: the parsed contents of the folder's files.
      files: the contents of the files as bytes, by name (of FILES).
      file: path of tokenizer.json, for messages.

    Raises:
      ConfigError: a part is damaged, missing or not supported; names it.
    """
    self._files = dict(files)
    self.spec = byte_level.read(folder, file)
    self.tokens = self.spec.tokens
    self.vocab_size = len(self.tokens)
    ids = {text: i for i, text in enumerate(self.tokens)}
    ends = _generation_ends(files, file, self.vocab_size)
    self.eos_id, self.pad_id = _ends(ids, folder.special, ends, file)
    self.bos_id = byte_level.first_id(folder.json, self.vocab_size, file)
    special = [self.pad_id, self.eos_id, self.bos_id]
    unread = {self.tokens[i] for i in special if i is not None}
    marks = {text for marks in families.turn_marks() for text in marks}
    self._tokenizer = self._load(
      byte_level.to_library(folder.json, folder.added, unread - marks), file
    )
    self._tokenizer.encode_special_tokens = True
    self._check_ids(file)
    named = (ids.get(marks.end) for marks in families.turn_marks())
    config_eos = ids.get(folder.special.get('eos_token', ''))
    stops = (self.eos_id, config_eos, *named, *ends)
    self.stop_ids = tuple(dict.fromkeys(i for i in stops if i is not None))
    text = self.spec.to_json(special)
    self.digest = hashlib.sha256(b'byte-level BPE ' + text.encode()).hexdigest()
    self._silent = frozenset(special)

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text; see tokenizers.Tokenizer."""
    return self._encode(text).ids

  def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and their characters; see tokenizers.Tokenizer."""
    encoding = self._encode(text)
    offsets, end, last = [], len(text), None
    for begin, _ in reversed(encoding.offsets):
      # NFC composes a mark with the preceding letter, and the offsets only
      # contain the letter. So each token extends to the start of the next one.
      if last is not None and last > begin:
        end = last
      offsets.append((begin, max(end, begin + 1)))
      last = begin
    return (
      np.array(encoding.ids, np.int32),
      np.array(offsets[::-1], np.int32).reshape(-1, 2),
    )

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids; see tokenizers.Tokenizer."""
    kept = self._with_text(ids)
    return self._tokenizer.decode(kept, skip_special_tokens=False)

  def text_of(self, index: int) -> str:
    """Returns a token as its file writes it."""
    return self.tokens[index]

  def bytes_of(self, index: int) -> bytes | None:
    """Returns the bytes of a token; see tokenizers.Tokenizer."""
    if index in self._silent:
      return None
    text = self.tokens[index]
    if index in self.spec.added:
      return text.encode()
    return bytes(map(byte_level.BYTES.__getitem__, text))

  def files(self) -> dict[str, bytes]:
    """Returns the contents of the tokenizer's files by name."""
    return dict(self._files)

  def _encode(self, text: str) -> Any:
    text_files.check_unicode(text, 'text to tokenize')
    return self._tokenizer.encode(text, add_special_tokens=False)

  def _load(self, text: str, file: str) -> Any:
    """Returns the library's tokenizer for the text of a tokenizer.json."""
    import tokenizers  # Takes 20 ms, and only this kind of tokenizer needs it.

    try:
      return tokenizers.Tokenizer.from_str(text)
    except Exception as e:  # The library raises no specific type.
      raise errors.ConfigError(
        file,
        f'is not a tokenizer: {json_files.short(str(e))}',
        legal='a tokenizer.json that the tokenizers library reads',
      ) from e

  def _check_ids(self, file: str) -> None:
    """Rejects added tokens to which the library assigns other ids."""
    for index, token in self.spec.added.items():
      actual = self._tokenizer.token_to_id(token.content)
      if actual != index:
        raise errors.ConfigError(
          file,
          f'the added token {token.content!r} has id {index}, but '
          f'id {actual} in the tokenizers library',
          legal='added tokens with the ids that follow the vocabulary',
        )


def from_folder(folder: added_tokens.Folder) -> ByteLevelTokenizer:
  """Builds the tokenizer of a folder.

  Args:
    folder: the parsed contents of the folder's files.

  Raises:
    ConfigError: see ByteLevelTokenizer.
  """
  files = {}
  for name in FILES:
    path = os.path.join(folder.directory, name)
    if os.path.isfile(path):
      with open(path, 'rb') as f:
        files[name] = f.read()
  file = os.path.join(folder.directory, added_tokens.TOKENIZER_JSON)
  return ByteLevelTokenizer(folder, files, file)


def _ends(
  ids: Mapping[str, int],
  special: Mapping[str, str],
  ends: Sequence[int],
  file: str,
) -> tuple[int, int]:
  """Returns the ids of EOS and padding."""
  for text in _DOCUMENT_ENDS:
    if text in ids:
      return ids[text], ids[text]
  eos = ids.get(special.get('eos_token', ''), ends[0] if ends else None)
  if eos is None:
    raise errors.ConfigError(
      os.path.join(os.path.dirname(file), added_tokens.CONFIG),
      'names no eos_token',
      legal=f'an eos_token of {os.path.basename(file)}',
    )
  return eos, ids.get(special.get('pad_token', ''), eos)


def _generation_ends(
  files: Mapping[str, bytes], file: str, size: int
) -> list[int]:
  """Returns the ids that end an answer according to generation_config.json."""
  if GENERATION_CONFIG not in files:
    return []
  where = os.path.join(os.path.dirname(file), GENERATION_CONFIG)
  value = json_files.parse_object(
    files[GENERATION_CONFIG], where, 'a JSON object', is_file=True
  )
  ids = value.get('eos_token_id')
  ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
  for index in ids:
    if type(index) is not int or not 0 <= index < size:
      raise errors.ConfigError(
        f'{where}: eos_token_id',
        f'found {json_files.short(index)}',
        legal=f'ids of tokens, 0 to {size - 1}',
      )
  return ids
