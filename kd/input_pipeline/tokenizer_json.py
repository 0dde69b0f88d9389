"""Converts a tokenizer.json to an equivalent SentencePiece model.

transformers 5 does not save tokenizer.model, so current fine-tunes only contain
this file. A byte-fallback BPE that replaces spaces and does not split text,
such as Gemma's, has a SentencePiece model with the same ids for every text,
except that BOS, EOS, padding and unknown tokens do not match in text: data
cannot end a prompt by containing `<eos>`.
"""

from collections.abc import Mapping
import os
from typing import Any

from kd.core import errors
from kd.core import json_files
from kd.input_pipeline import added_tokens
from kd.input_pipeline import bpe
from kd.input_pipeline import sentencepiece_models

_Type = sentencepiece_models.Type
_SPACE = sentencepiece_models.SPACE
_REPLACE = {'type': 'Replace', 'pattern': {'String': ' '}, 'content': _SPACE}
_BACK = {'type': 'Replace', 'pattern': {'String': _SPACE}, 'content': ' '}
_DECODERS = [_BACK, {'type': 'ByteFallback'}, {'type': 'Fuse'}]
# Gemma's names take precedence: fine-tunes keep the vocabulary, but may use
# other names in their config, such as eos_token '<end_of_turn>'.
_NAMES = {'bos': '<bos>', 'eos': '<eos>', 'pad': '<pad>', 'unk': '<unk>'}
_MOST_IDS = 2**24
# Fields of a BPE model that no supported tokenizer sets.
MODEL_FIELDS_OFF = (
  'dropout',
  'continuing_subword_prefix',
  'end_of_word_suffix',
)
# Field of a Sequence that contains its members, by field of the file.
_MEMBERS = {
  'normalizer': 'normalizers',
  'pre_tokenizer': 'pretokenizers',
  'decoder': 'decoders',
  'post_processor': 'processors',
}


def model(folder: added_tokens.Folder) -> bytes:
  """Returns the SentencePiece model equivalent to a folder's tokenizer.json.

  Args:
    folder: the contents of the folder's files, including tokenizer.json.

  Returns:
    The serialized ModelProto, with all added tokens except those for images.

  Raises:
    ConfigError: the file is damaged, or no SentencePiece model is equivalent.
  """
  file = os.path.join(folder.directory, added_tokens.TOKENIZER_JSON)
  _check_form(folder.json, file)
  added_tokens.check(folder)
  texts = vocabulary(folder, ids(folder, file), file)
  special = _special(folder, texts, file)
  kinds = _kinds(folder, texts, special)
  listed = merges(folder.json['model'], file)
  scores = bpe.scores(texts, kinds, listed)
  pieces = list(zip(texts, scores, kinds, strict=True))
  reason = bpe.problem(pieces) or bpe.difference(pieces, listed)
  if reason:
    raise errors.ConfigError(
      f'{file}: model',
      f'has no equal SentencePiece model: {reason}',
      legal='merges as transformers makes them of a tokenizer.model',
    )
  return sentencepiece_models.serialize(pieces, **special)


def _check_form(value: Mapping[str, Any], file: str) -> None:
  """Raises ConfigError for components that differ from Gemma's."""

  def refuse(key, actual, legal):
    raise json_files.unexpected(f'{file}: {key}', actual, legal)

  part = value.get('model')
  if not isinstance(part, dict) or part.get('type') != 'BPE':
    kind = part.get('type') if isinstance(part, dict) else part
    refuse('model.type', kind, "'BPE'")
  if part.get('byte_fallback') is not True:
    refuse('model.byte_fallback', part.get('byte_fallback'), 'true')
  for key in ('ignore_merges', *MODEL_FIELDS_OFF):
    if part.get(key):
      refuse(f'model.{key}', part[key], 'none')
  if parts(value, 'normalizer') != [_REPLACE]:
    refuse('normalizer', value.get('normalizer'), f'Replace " " by {_SPACE!r}')
  for splitter in parts(value, 'pre_tokenizer'):
    # Splits at spaces have no effect, since the normalizer has replaced them.
    pattern = splitter.get('pattern') if isinstance(splitter, dict) else None
    if (
      pattern != {'String': ' '}
      or splitter.get('type') != 'Split'
      or splitter.get('invert')
    ):
      refuse('pre_tokenizer', value['pre_tokenizer'], 'none')
  decoders = parts(value, 'decoder')
  if decoders != _DECODERS:
    legal = f'Replace {_SPACE!r} by " ", ByteFallback, Fuse'
    refuse('decoder', value.get('decoder'), legal)


def parts(value: Mapping[str, Any], key: str) -> list[Any]:
  """Returns the members of a component: those of a Sequence, or itself.

  Args:
    value: the contents of tokenizer.json.
    key: normalizer, pre_tokenizer, decoder or post_processor.
  """
  part = value.get(key)
  if part is None:
    return []
  if isinstance(part, dict) and part.get('type') == 'Sequence':
    members = part.get(_MEMBERS[key])
    return members if isinstance(members, list) else [members]
  return [part]


def ids(folder: added_tokens.Folder, file: str) -> dict[str, int]:
  """Returns the ids of tokenizer.json's vocabulary by text.

  Args:
    folder: the contents of the folder's files, including tokenizer.json.
    file: path of tokenizer.json, for messages.

  Raises:
    ConfigError: the vocabulary does not map texts to ids.
  """
  part = folder.json.get('model')
  vocabulary = part.get('vocab') if isinstance(part, dict) else None
  if isinstance(vocabulary, list):  # A unigram model: [text, score] by id.
    texts = [
      entry[0] if isinstance(entry, list) and entry else entry
      for entry in vocabulary
    ]
    if all(isinstance(text, str) for text in texts):
      return {text: i for i, text in enumerate(texts)}
  elif isinstance(vocabulary, dict) and all(
    type(i) is int and 0 <= i < _MOST_IDS for i in vocabulary.values()
  ):
    return vocabulary
  raise errors.ConfigError(
    f'{file}: model.vocab',
    f'found {json_files.short(vocabulary)}',
    legal='an object from texts to ids',
  )


def vocabulary(
  folder: added_tokens.Folder, own: Mapping[str, int], file: str
) -> list[str]:
  """Returns the text of every id, including added tokens.

  Args:
    folder: folder with the added tokens.
    own: ids of the vocabulary without added tokens, from `ids`.
    file: path of tokenizer.json, for messages.

  Raises:
    ConfigError: two tokens have one id, or an id has no token.
  """
  texts: dict[int, str] = {}
  for text, index in own.items():
    if index in texts:
      raise errors.ConfigError(
        f'{file}: model.vocab',
        f'id {index} is both {json_files.short(texts[index])} and '
        f'{json_files.short(text)}',
      )
    texts[index] = text
  known = set(texts.values())
  for index, token in sorted(folder.added.items()):
    if index not in texts and token.content not in known:
      texts[index] = token.content
    elif texts.get(index) != token.content:
      raise errors.ConfigError(
        token.file,
        f'the added token {token.content!r} has id {index}, which the '
        'vocabulary contradicts',
        legal='one id for each text',
      )
  last = max(texts, default=-1)
  if last >= 0 and texts[last] in added_tokens.VISION:
    del texts[last]
  for index in range(len(texts)):
    if index not in texts:
      raise errors.ConfigError(
        f'{file}: model.vocab', f'no token has id {index}', legal='no gaps'
      )
  return [texts[i] for i in range(len(texts))]


def _special(
  folder: added_tokens.Folder, vocabulary: list[str], file: str
) -> dict[str, int]:
  """Returns the ids of bos, eos, pad (-1 if missing) and unk."""
  by_text = {text: i for i, text in enumerate(vocabulary)}
  unk = folder.json['model'].get('unk_token')
  named = dict(folder.special)
  if isinstance(unk, str):
    named.setdefault('unk_token', unk)
  result = {}
  for kind, usual in _NAMES.items():
    text = usual if usual in by_text else named.get(f'{kind}_token')
    if text in by_text and by_text[text] not in result.values():
      result[kind] = by_text[text]
    elif kind == 'pad':
      result[kind] = -1
    else:
      raise errors.ConfigError(
        os.path.join(folder.directory, added_tokens.CONFIG),
        f'{kind}_token is {json_files.short(text)}, which has no id of its own '
        f'in {os.path.basename(file)}',
        legal=f'a {kind}_token of the vocabulary',
      )
  return result


def _kinds(
  folder: added_tokens.Folder,
  vocabulary: list[str],
  special: Mapping[str, int],
) -> list[int]:
  names = dict.fromkeys(bpe.BYTES, _Type.BYTE)
  kinds = [names.get(text, _Type.NORMAL) for text in vocabulary]
  for index in folder.added:
    # Bytes that mark images in byte vocabularies stay bytes.
    if index < len(kinds) and kinds[index] != _Type.BYTE:
      kinds[index] = _Type.USER_DEFINED
  for kind, index in special.items():
    if index >= 0:
      kinds[index] = _Type.UNKNOWN if kind == 'unk' else _Type.CONTROL
  return kinds


def merges(part: Mapping[str, Any], file: str) -> list[bpe.Merge]:
  """Returns the merges; in older files, each is one string.

  Args:
    part: the `model` of tokenizer.json.
    file: path of tokenizer.json, for messages.

  Raises:
    ConfigError: the merges are not a list of pairs.
  """
  listed = part.get('merges')
  result = []
  for entry in listed if isinstance(listed, list) else [listed]:
    pair = entry.split(' ') if isinstance(entry, str) else entry
    if (
      not isinstance(pair, list)
      or len(pair) != 2
      or not all(isinstance(x, str) and x for x in pair)
    ):
      raise errors.ConfigError(
        f'{file}: model.merges',
        f'found {json_files.short(entry)}',
        legal='a list of pairs of texts',
      )
    result.append((pair[0], pair[1]))
  return result
