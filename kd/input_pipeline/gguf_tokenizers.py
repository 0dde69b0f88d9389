"""Converts a tokenizer to GGUF metadata for llama.cpp."""

from collections import Counter
from collections.abc import Mapping
import json
import re
from typing import Any

from kd.core import errors
from kd.input_pipeline import added_tokens
from kd.input_pipeline import byte_level_tokenizer
from kd.input_pipeline import gguf_vocabularies
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizer_differences
from kd.input_pipeline import tokenizers
from kd.models import families

_PREFIX = sentencepiece_models.PREFIX
_Type = sentencepiece_models.Type
# Special tokens in Gemma's tokenizer_config.json in addition to the marks of
# turns. llama.cpp matches these in text only if the caller requests it.
_SPECIAL = re.compile(r'<mask>|<unused\d+>')
_NO_SCORE = -1000.0  # For pieces that are not merged, as in published files.


def fields(
  tokenizer: tokenizers.Tokenizer, rows: int, template: str, path: str
) -> dict[str, Any]:
  """Returns the metadata of a tokenizer by key.

  Args:
    tokenizer: tokenizer of the model.
    rows: number of rows of the model's embedding, at least the number of ids.
    template: data.template; its Jinja text is added if it has turns.
    path: config path of the tokenizer, for messages.

  Returns:
    Values by key. There is a token per id or, for byte-level BPE, a token per
    row, as in published files.

  Raises:
    ConfigError: a tokenizer read from the file would produce other ids, or
      llama.cpp would abort.
  """
  hf_tokenizer.check(tokenizer, path)
  if isinstance(tokenizer, byte_level_tokenizer.ByteLevelTokenizer):
    values = _byte_level(tokenizer, rows)
    read = gguf_vocabularies.byte_level(values, path)
  else:
    values = _sentencepiece(tokenizer)
    model = sentencepiece_models.from_gguf(values, path)
    read = sentencepiece_tokenizer.SentencePieceTokenizer(model, path)
  _check_unique(values['tokens'], path)
  difference = tokenizer_differences.describe(
    tokenizer, read, 'here', 'in the file'
  )
  if difference:
    raise errors.ConfigError(
      path,
      f'the tokenizer cannot be written to a GGUF file: {difference}',
      legal='a tokenizer such as those of Gemma 3 and Qwen3, or '
      '--config.export.formats=hf',
    )
  values = {_PREFIX + key: value for key, value in values.items()}
  if templates.has_turns(template):
    jinja = templates.TEMPLATES[template].jinja_of_gguf
    values[gguf_vocabularies.CHAT_TEMPLATE] = jinja
  return values


def _check_unique(tokens: list[str], path: str) -> None:
  """Raises ConfigError if two tokens have one text: llama.cpp would abort."""
  twice = [text for text, count in Counter(tokens).items() if count > 1]
  if twice:
    raise errors.ConfigError(
      path,
      'the tokenizer cannot be written to a GGUF file: several ids have the '
      f'text {errors.first_of(list(map(repr, twice)))}',
      legal='each text once',
    )


def _sentencepiece(
  tokenizer: sentencepiece_tokenizer.SentencePieceTokenizer,
) -> dict[str, Any]:
  special = {
    'bos': tokenizer.bos_id,
    'eos': tokenizer.eos_id,
    'unknown': tokenizer.unk_id,
    'padding': tokenizer.pad_id,
  }
  marks = {mark for marks in families.turn_marks() for mark in marks}
  tokens, scores, kinds = [], [], []
  for index, (text, score, kind) in enumerate(tokenizer.pieces):
    is_added = kind == _Type.USER_DEFINED
    if index in special.values() or (
      is_added and (text in marks or _SPECIAL.fullmatch(text))
    ):
      kind = gguf_vocabularies.CONTROL
    elif is_added:
      text = text.replace(sentencepiece_models.SPACE, ' ')
    if kind in (gguf_vocabularies.CONTROL, gguf_vocabularies.USER_DEFINED):
      score = _NO_SCORE
    tokens.append(text)
    scores.append(score)
    kinds.append(int(kind))
  return {
    'model': 'llama',
    'pre': 'default',
    'tokens': tokens,
    'scores': scores,
    'token_type': kinds,
    **{f'{name}_token_id': index for name, index in special.items()},
    'add_bos_token': True,
    'add_sep_token': False,
    'add_eos_token': False,
    'add_space_prefix': False,
  }


def _byte_level(
  tokenizer: byte_level_tokenizer.ByteLevelTokenizer, rows: int
) -> dict[str, Any]:
  files = {
    name: json.loads(data)
    for name, data in tokenizer.files().items()
    if name in (added_tokens.TOKENIZER_JSON, added_tokens.CONFIG)
  }
  ids = {text: index for index, text in enumerate(tokenizer.tokens)}
  eos = _named(files[added_tokens.CONFIG], 'eos_token', ids, tokenizer.eos_id)
  size = tokenizer.vocab_size
  padding = [f'[PAD{i}]' for i in range(size, rows)]
  special = _special_ids(files)
  kinds = [gguf_vocabularies.NORMAL] * size
  for index in tokenizer.spec.added:
    kinds[index] = gguf_vocabularies.USER_DEFINED
    if index in special:
      kinds[index] = gguf_vocabularies.CONTROL
  bos = tokenizer.bos_id
  return {
    'model': 'gpt2',
    'pre': next(iter(gguf_vocabularies.PRE)),
    'tokens': [*tokenizer.tokens, *padding],
    'token_type': kinds + [gguf_vocabularies.UNUSED] * len(padding),
    'merges': [' '.join(pair) for pair in tokenizer.spec.merges],
    'eos_token_id': eos,
    'padding_token_id': tokenizer.pad_id,
    # Without this field llama.cpp uses GPT-2's id.
    'bos_token_id': tokenizer.eos_id if bos is None else bos,
    'add_bos_token': bos is not None,
  }


def _named(
  config: Mapping[str, Any], key: str, ids: Mapping[str, int], default: int
) -> int:
  """Returns the id of a token that tokenizer_config.json names."""
  text = config.get(key)
  if isinstance(text, dict):
    text = text.get('content')
  return ids.get(text, default)


def _special_ids(files: Mapping[str, Mapping[str, Any]]) -> set[int]:
  """Returns the ids of the added tokens that the files mark as special."""
  listed = files[added_tokens.TOKENIZER_JSON].get('added_tokens') or []
  decoder = files[added_tokens.CONFIG].get('added_tokens_decoder') or {}
  special = {entry['id'] for entry in listed if entry.get('special')}
  return special | {int(i) for i, t in decoder.items() if t.get('special')}
