"""Reads and checks a tokenizer.json with a byte-level BPE model.

Such a tokenizer maps every byte of the normalized text to one printable
character, splits the text by a regular expression, and merges characters within
each part. Examples are GPT-2, Llama 3 and Qwen.
"""

from collections.abc import Collection, Mapping
import dataclasses
import json
from typing import Any

from kd.core import errors
from kd.core import json_files
from kd.input_pipeline import added_tokens
from kd.input_pipeline import bpe
from kd.input_pipeline import tokenizer_json

_TYPE = 'ByteLevel'
# Defaults of the library for fields that a file omits.
_SPLITTING = {'add_prefix_space': True, 'use_regex': True}


def _byte_characters() -> list[str]:
  """Returns the character that represents each byte, as in GPT-2."""
  printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
  others = (byte for byte in range(256) if byte not in printable)
  characters = {byte: chr(byte) for byte in printable}
  characters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
  return [characters[byte] for byte in range(256)]


CHARACTERS = tuple(_byte_characters())
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}


@dataclasses.dataclass(frozen=True)
class Spec:
  """The parts of a tokenizer.json that affect ids and text.

  Files that only differ in how a library serialized them have equal specs.

  Attributes:
    tokens: text of each id, including added tokens.
    merges: pairs of tokens in order of priority.
    added: tokens that are matched before the text is split, by id.
    normalizer: normalization of the text.
    pre_tokenizer: split of the normalized text.
    decoder: conversion of tokens to text.
    ignore_merges: whether a part that is itself a token skips the merges.
  """

  tokens: tuple[str, ...]
  merges: tuple[bpe.Merge, ...]
  added: Mapping[int, added_tokens.Token]
  normalizer: Any
  pre_tokenizer: Any
  decoder: Any
  ignore_merges: bool

  def to_json(self, special_ids: Collection[int | None]) -> str:
    """Returns canonical JSON of the spec and of the special ids.

    Args:
      special_ids: ids of padding, EOS and BOS.
    """
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    fields['added'] = [
      [index, token.content, token.normalized, *token.flags]
      for index, token in sorted(self.added.items())
    ]
    return json.dumps({**fields, 'special_ids': special_ids}, sort_keys=True)


def is_byte_level(value: Mapping[str, Any]) -> bool:
  """Returns whether a tokenizer.json splits and decodes text as bytes.

  Args:
    value: the contents of the file.
  """
  return all(
    any(_is_byte_level(part) for part in tokenizer_json.parts(value, key))
    for key in ('pre_tokenizer', 'decoder')
  )


def _is_byte_level(part: Any) -> bool:
  return isinstance(part, dict) and part.get('type') == _TYPE


def read(folder: added_tokens.Folder, file: str) -> Spec:
  """Checks the tokenizer of a folder.

  Args:
    folder: the contents of the folder's files; see is_byte_level.
    file: path of tokenizer.json, for messages.

  Returns:
    The spec of the tokenizer.

  Raises:
    ConfigError: a part is damaged, missing or not supported; names it.
  """
  model = folder.json.get('model')
  if not isinstance(model, dict) or model.get('type') != 'BPE':
    kind = model.get('type') if isinstance(model, dict) else model
    raise json_files.unexpected(f'{file}: model.type', kind, "'BPE'")
  for key in tokenizer_json.MODEL_FIELDS_OFF:
    if model.get(key):
      raise json_files.unexpected(f'{file}: model.{key}', model[key], 'none')
  ignore_merges = model.get('ignore_merges', False)
  if not isinstance(ignore_merges, bool):
    raise json_files.unexpected(
      f'{file}: model.ignore_merges', ignore_merges, 'true, false'
    )
  vocabulary = tokenizer_json.ids(folder, file)
  tokens = tokenizer_json.vocabulary(folder, vocabulary, file)
  known = set(tokens)
  for byte, character in enumerate(CHARACTERS):
    if character not in known:
      raise errors.ConfigError(
        f'{file}: model.vocab',
        f'has no token {character!r}, which stands for byte {byte:#04x}',
        legal='a token for each of the 256 bytes',
      )
  merges = tokenizer_json.merges(model, file)
  for left, right in merges:
    for text in (left, right, left + right):
      if text not in vocabulary:
        raise errors.ConfigError(
          f'{file}: model.merges',
          f'{json_files.short(left)} + {json_files.short(right)}: '
          f'{json_files.short(text)} is not a token of the vocabulary',
        )
  for text in folder.named:
    if text not in known:
      raise errors.ConfigError(
        file, f'the special token {text!r} has no id in it'
      )
  return Spec(
    tokens=tuple(tokens),
    merges=tuple(merges),
    added=folder.added,
    normalizer=_canonical(folder.json, 'normalizer'),
    pre_tokenizer=_canonical(folder.json, 'pre_tokenizer'),
    decoder=_canonical(folder.json, 'decoder'),
    ignore_merges=ignore_merges,
  )


def _canonical(value: Mapping[str, Any], key: str) -> list[Any]:
  """Returns the members of a part without fields that have no effect."""
  result = []
  for part in tokenizer_json.parts(value, key):
    if _is_byte_level(part):
      # trim_offsets only affects post-processors, and decoders use no field.
      fields = _SPLITTING if key == 'pre_tokenizer' else {}
      part = {'type': _TYPE} | {k: part.get(k, v) for k, v in fields.items()}
    result.append(part)
  return result


def first_id(value: Mapping[str, Any], size: int, file: str) -> int | None:
  """Returns the id that a tokenizer.json prepends to a text, or None.

  Like transformers, this ignores bos_token.

  Args:
    value: the contents of the file.
    size: number of ids.
    file: path of the file, for messages.

  Raises:
    ConfigError: the file prepends several tokens, or uses another type of
      post-processor.
  """
  path = f'{file}: post_processor'
  for part in tokenizer_json.parts(value, 'post_processor'):
    if _is_byte_level(part):  # Only changes offsets.
      continue
    try:
      if part['type'] != 'TemplateProcessing':
        raise json_files.unexpected(path, part['type'], "'TemplateProcessing'")
      names = []
      for entry in part['single']:
        if 'SpecialToken' not in entry:
          break
        names.append(entry['SpecialToken']['id'])
      ids = [i for name in names for i in part['special_tokens'][name]['ids']]
    except (KeyError, TypeError) as e:
      legal = "null, or an object of type 'TemplateProcessing'"
      raise json_files.unexpected(path, part, legal) from e
    if len(ids) > 1:
      raise json_files.unexpected(path, names, 'one token in front of a text')
    if ids:
      if type(ids[0]) is not int or not 0 <= ids[0] < size:
        raise json_files.unexpected(path, ids[0], f'an id, 0 to {size - 1}')
      return ids[0]
  return None


def to_library(
  value: Mapping[str, Any],
  added: Mapping[int, added_tokens.Token],
  unread: Collection[str],
) -> str:
  """Returns the tokenizer.json to load with the `tokenizers` library.

  Args:
    value: the contents of the file.
    added: all added tokens by id.
    unread: the added tokens that are not matched in text. Only they are marked
      as special, since the library can skip special tokens.
  """
  entries = [
    {
      'id': index,
      'content': token.content,
      **dict(zip(added_tokens.FLAGS, token.flags, strict=True)),
      'normalized': token.normalized,
      'special': token.content in unread,
    }
    for index, token in sorted(added.items())
  ]
  # No post-processor: it may trim offsets, and callers add BOS themselves.
  changes = {'truncation': None, 'padding': None, 'post_processor': None}
  return json.dumps({**value, 'added_tokens': entries, **changes})
