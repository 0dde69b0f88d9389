"""Reads the tokenizer of a GGUF file."""

from collections.abc import Mapping
import json
from typing import Any

from kd.checkpoints import gguf_parts
from kd.core import errors
from kd.core import json_files
from kd.input_pipeline import added_tokens
from kd.input_pipeline import byte_level_tokenizer
from kd.input_pipeline import sentencepiece_models

_PREFIX = sentencepiece_models.PREFIX
CHAT_TEMPLATE = 'tokenizer.chat_template'
_LISTS = ('tokens', 'scores', 'token_type', 'merges')
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
_ENDS = ('eos', 'eot')
_SPLIT = {'behavior': 'Isolated', 'invert': False}
# Unicode normalization and regular expression of the model's own tokenizer, by
# tokenizer.ggml.pre. llama.cpp does not normalize.
PRE = {
  'qwen2': (
    'NFC',
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+',
  ),
}


def read(path: str) -> dict[str, Any]:
  """Returns the metadata of the tokenizer, with the key prefix removed.

  Args:
    path: a GGUF file, or any part of a split one.

  Returns:
    The fields of `tokenizer.ggml.`, and `chat_template` if there is one.

  Raises:
    ConfigError: the file is not a GGUF file or is damaged.
  """
  lists = [_PREFIX + name for name in _LISTS]
  metadata = gguf_parts.read(path, lists).metadata
  fields = {
    key.removeprefix(_PREFIX): value
    for key, value in metadata.items()
    if key.startswith(_PREFIX)
  }
  if isinstance(metadata.get(CHAT_TEMPLATE), str):
    fields['chat_template'] = metadata[CHAT_TEMPLATE]
  return fields


def byte_level(
  fields: Mapping[str, Any], path: str
) -> byte_level_tokenizer.ByteLevelTokenizer:
  """Builds the byte-level BPE tokenizer of a GGUF file.

  Args:
    fields: from `read`; their `model` is 'gpt2'.
    path: the file, for messages.

  Raises:
    ConfigError: a field is missing or damaged, or the pre-tokenizer is unknown.
  """
  _check(fields, path)
  tokens, kinds = fields['tokens'], fields['token_type']
  size = len(tokens)
  while size and kinds[size - 1] == UNUSED:  # Padding of the embedding.
    size -= 1
  special = {
    name: fields[f'{name}_token_id']
    for name in ('bos', 'eos', 'eot', 'padding')
    if f'{name}_token_id' in fields
  }
  sentencepiece_models.check_special(special, size, path)
  names = {name: tokens[index] for name, index in special.items()}
  bos = names.get('bos') if fields.get('add_bos_token') else None
  whole = _tokenizer_json(fields, size, bos)
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'bos_token': bos,
    'eos_token': names['eos'],
    'pad_token': names.get('padding', names['eos']),
    'clean_up_tokenization_spaces': False,
    'model_max_length': 10**30,  # transformers' value for "no limit".
  }
  if 'chat_template' in fields:
    config['chat_template'] = fields['chat_template']
  ends = [special[name] for name in _ENDS if name in special]
  values = {
    added_tokens.TOKENIZER_JSON: whole,
    added_tokens.CONFIG: config,
    byte_level_tokenizer.GENERATION_CONFIG: {'eos_token_id': ends},
  }
  files = {
    name: json.dumps(value, ensure_ascii=False, indent=1).encode()
    for name, value in values.items()
  }
  return byte_level_tokenizer.ByteLevelTokenizer(
    added_tokens.from_values(path, whole, config, {}),
    files,
    f'{path}: {_PREFIX.removesuffix(".")}',
  )


def _check(fields: Mapping[str, Any], path: str) -> None:
  """Rejects missing fields and lists of wrong types or lengths."""
  if fields.get('pre') not in PRE:
    raise errors.ConfigError(
      f'{path}: {_PREFIX}pre',
      f'found {json_files.short(fields.get("pre"))}',
      legal=', '.join(map(repr, PRE)),
    )
  kinds = {'tokens': str, 'token_type': int, 'merges': str}
  sentencepiece_models.check_present(fields, (*kinds, 'eos_token_id'), path)
  for name, kind in kinds.items():
    value = fields[name]
    if not isinstance(value, list) or not all(type(x) is kind for x in value):
      raise errors.ConfigError(
        f'{path}: {_PREFIX}{name}',
        'is damaged',
        legal=f'a list of {kind.__name__}',
      )
  if len(fields['tokens']) != len(fields['token_type']):
    raise errors.ConfigError(
      f'{path}: {_PREFIX}token_type',
      f'has {len(fields["token_type"])} entries',
      legal=f'one for each of {len(fields["tokens"])} tokens',
    )


def _tokenizer_json(
  fields: Mapping[str, Any], size: int, bos: str | None
) -> dict[str, Any]:
  """Returns the contents of an equivalent tokenizer.json."""
  form, pattern = PRE[fields['pre']]
  splits = {'type': 'Split', 'pattern': {'Regex': pattern}, **_SPLIT}
  as_bytes = {'type': 'ByteLevel', 'add_prefix_space': False}
  as_bytes |= {'trim_offsets': False, 'use_regex': False}
  kinds = fields['token_type']
  flags = dict.fromkeys((*added_tokens.FLAGS, 'normalized'), False)
  added, vocabulary = [], {}
  for index, text in enumerate(fields['tokens'][:size]):
    if kinds[index] in (CONTROL, USER_DEFINED):
      is_special = kinds[index] == CONTROL
      added.append(
        {'id': index, 'content': text, **flags, 'special': is_special}
      )
    else:
      vocabulary[text] = index
  processor = None
  if bos is not None:
    first = {'SpecialToken': {'id': bos, 'type_id': 0}}
    single = [first, {'Sequence': {'id': 'A', 'type_id': 0}}]
    ids = [fields['bos_token_id']]
    processor = {
      'type': 'TemplateProcessing',
      'single': single,
      'pair': [*single, {'Sequence': {'id': 'B', 'type_id': 1}}],
      'special_tokens': {bos: {'id': bos, 'ids': ids, 'tokens': [bos]}},
    }
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': added,
    'normalizer': {'type': form},
    'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [splits, as_bytes]},
    'post_processor': processor,
    'decoder': as_bytes,
    'model': {
      'type': 'BPE',
      'dropout': None,
      'unk_token': None,
      'continuing_subword_prefix': '',
      'end_of_word_suffix': '',
      'fuse_unk': False,
      'byte_fallback': False,
      'ignore_merges': False,
      'vocab': vocabulary,
      'merges': fields['merges'],
    },
  }
