"""Reads the tokens that a Hugging Face folder adds to its vocabulary.

Tokenizers match these tokens in the text before they apply merges, like the
user-defined pieces of SentencePiece. Their ids may exceed those of
tokenizer.model.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import os
from typing import Any

from kd.core import errors
from kd.core import json_files
from kd.input_pipeline import sentencepiece_models

TOKENIZER_JSON = 'tokenizer.json'
CONFIG = 'tokenizer_config.json'
ADDED = 'added_tokens.json'

# Placeholder for an image, without an embedding in text-only models.
VISION = ('<image_soft_token>',)

_SPECIAL = ('bos_token', 'eos_token', 'pad_token', 'unk_token')
_LISTS = ('extra_special_tokens', 'additional_special_tokens')
FLAGS = ('single_word', 'lstrip', 'rstrip')
_MOST_IDS = 2**24
_MOST_CHARACTERS = 1000
_SPACE = sentencepiece_models.SPACE


@dataclasses.dataclass(frozen=True)
class Token:
  """An added token.

  Attributes:
    content: text of the token.
    normalized: whether it is matched against the normalized text.
    flags: the values of FLAGS: whether it matches only whole words, and whether
      it includes the spaces to its left and to its right.
    file: file that declares the token.
  """

  content: str
  normalized: bool
  flags: tuple[bool, ...]
  file: str


@dataclasses.dataclass(frozen=True)
class Folder:
  """The contents of a folder's tokenizer files, except tokenizer.model.

  Attributes:
    directory: the folder.
    json: the contents of tokenizer.json, {} without that file.
    added: the added tokens by id.
    special: the texts of bos_token, eos_token, pad_token and unk_token, if
      tokenizer_config.json defines them.
    named: all tokens that tokenizer_config.json lists as special; their ids are
      in other files, if anywhere.
  """

  directory: str
  json: Mapping[str, Any]
  added: Mapping[int, Token]
  special: Mapping[str, str]
  named: tuple[str, ...]


def read(directory: str) -> Folder:
  """Reads a folder's files; any of them may be missing.

  Args:
    directory: a Hugging Face model directory.

  Returns:
    The contents of the files.

  Raises:
    ConfigError: a file is damaged, or two assign an id to different tokens.
  """
  return from_values(
    directory,
    json_files.read_in(directory, TOKENIZER_JSON),
    json_files.read_in(directory, CONFIG),
    json_files.read_in(directory, ADDED),
  )


def from_values(
  directory: str,
  whole: Mapping[str, Any],
  config: Mapping[str, Any],
  more: Mapping[str, Any],
) -> Folder:
  """Combines the contents of a folder's files.

  Args:
    directory: the folder, for messages.
    whole: the contents of tokenizer.json; {} if missing, as for the others.
    config: the contents of tokenizer_config.json.
    more: the contents of added_tokens.json.

  Returns:
    The folder.

  Raises:
    ConfigError: see `read`.
  """
  at = lambda name: os.path.join(directory, name)
  added: dict[int, Token] = {}
  _add_all(added, _from_list(whole.get('added_tokens'), at(TOKENIZER_JSON)))
  _add_all(added, _from_decoder(config.get('added_tokens_decoder'), at(CONFIG)))
  _add_all(added, _from_map(more, at(ADDED)))
  special = {
    key: _content(config[key], f'{at(CONFIG)}: {key}')
    for key in _SPECIAL
    if config.get(key) is not None
  }
  named = [*special.values(), *_named(config, at(CONFIG))]
  return Folder(directory, whole, added, special, tuple(dict.fromkeys(named)))


def _add_all(
  added: dict[int, Token], more: Iterable[tuple[int, Token]]
) -> None:
  for index, token in more:
    if index in added and added[index].content != token.content:
      old = added[index]
      raise errors.ConfigError(
        token.file,
        f'id {index} is {token.content!r}, but {old.content!r} in {old.file}',
        legal='the same added tokens in all files of a tokenizer',
      )
    added.setdefault(index, token)


def _from_list(value: Any, file: str) -> Iterable[tuple[int, Token]]:
  if value is None:
    return
  if not isinstance(value, list):
    raise json_files.unexpected(f'{file}: added_tokens', value, 'a list')
  for entry in value:
    if not isinstance(entry, dict) or 'id' not in entry:
      raise json_files.unexpected(
        f'{file}: added_tokens', entry, 'objects with id, content'
      )
    yield _index(entry['id'], file), _token(entry, file)


def _from_decoder(value: Any, file: str) -> Iterable[tuple[int, Token]]:
  if value is None:
    return
  if not isinstance(value, dict):
    raise json_files.unexpected(
      f'{file}: added_tokens_decoder', value, 'an object'
    )
  for key, entry in value.items():
    is_number = key.isdecimal() and len(key) < 10
    yield _index(int(key) if is_number else key, file), _token(entry, file)


def _from_map(
  value: Mapping[str, Any], file: str
) -> Iterable[tuple[int, Token]]:
  for content, index in value.items():
    yield _index(index, file), _token({'content': content}, file)


def _index(value: Any, file: str) -> int:
  if type(value) is not int or not 0 <= value < _MOST_IDS:
    raise json_files.unexpected(
      f'{file}: the id of an added token', value, 'a number'
    )
  return value


def _token(entry: Any, file: str) -> Token:
  content = _content(entry, f'{file}: added tokens')
  flags = tuple(bool(entry.get(flag)) for flag in FLAGS)
  return Token(content, bool(entry.get('normalized')), flags, file)


def _content(value: Any, path: str) -> str:
  if isinstance(value, dict):
    value = value.get('content')
  if not isinstance(value, str) or not 0 < len(value) <= _MOST_CHARACTERS:
    legal = f'the text of a token, of up to {_MOST_CHARACTERS} characters'
    raise json_files.unexpected(path, value, legal)
  return value


def _named(config: Mapping[str, Any], file: str) -> Iterable[str]:
  """Yields the tokens in the config's lists of special tokens."""
  for key in _LISTS:
    value = config.get(key)
    if value is None:
      continue
    if not isinstance(value, (list, dict)):
      raise json_files.unexpected(f'{file}: {key}', value, 'a list')
    for entry in value.values() if isinstance(value, dict) else value:
      yield _content(entry, f'{file}: {key}')


def check_flags(folder: Folder) -> None:
  """Raises ConfigError unless all added tokens match anywhere in text.

  Args:
    folder: folder with the added tokens.
  """
  for token in folder.added.values():
    for name, value in zip(FLAGS, token.flags, strict=True):
      if value:
        raise errors.ConfigError(
          f'{token.file}: {token.content!r}',
          f'{name} is {value}',
          legal=f'added tokens that match anywhere in text ({name} false)',
        )


def check(folder: Folder) -> None:
  """Rejects added tokens that SentencePiece and transformers match differently.

  Args:
    folder: folder with the added tokens.

  Raises:
    ConfigError: there is such a token; names it.
  """
  legal = 'added tokens without spaces, none of which overlap'
  raw, replaced = set(), set()
  for token in folder.added.values():
    text = token.content
    if set(text) == {_SPACE} and not token.normalized:
      continue  # Produced by merges, never matched in text.
    if ' ' in text or _SPACE in text:
      raise errors.ConfigError(
        token.file, f'the added token {text!r} contains a space', legal=legal
      )
    (replaced if token.normalized else raw).add(text)
  # transformers matches raw tokens first, even if a normalized one begins
  # earlier in the text.
  heads = {text[:n] for text in raw for n in range(1, len(text) + 1)}
  tails = {text[n:] for text in raw for n in range(len(text))}
  for text in sorted(replaced):
    parts = range(1, len(text))
    if (
      any(text[n:] in heads or text[:n] in tails for n in parts)
      or text in heads
      or any(other in text for other in raw)
    ):
      raise errors.ConfigError(
        folder.directory,
        f'the added token {text!r} (normalized) overlaps one that is not '
        'normalized',
        legal=legal,
      )
