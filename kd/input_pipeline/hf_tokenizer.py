"""Writes a tokenizer's files for transformers, vLLM and llama.cpp."""

from collections.abc import Mapping
import json
import os
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from kd.core import atomic_files
from kd.core import errors
from kd.input_pipeline import added_tokens
from kd.input_pipeline import bpe
from kd.input_pipeline import byte_level_tokenizer
from kd.input_pipeline import chat_templates
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import tokenizers
from kd.models.gemma3 import chat_template as gemma_template

_Spec = sentencepiece_model_pb2.TrainerSpec


def problem(tokenizer: tokenizers.Tokenizer) -> str:
  """Explains why no tokenizer.json can reproduce the ids of a tokenizer.

  Args:
    tokenizer: any tokenizer.

  Returns:
    The reason, '' if `write` supports the tokenizer.
  """
  if isinstance(tokenizer, byte_level_tokenizer.ByteLevelTokenizer):
    return ''
  proto = sentencepiece_models.parse(tokenizer.model_proto, 'tokenizer')
  kind = proto.trainer_spec.model_type
  if kind != _Spec.BPE:
    return f'its model_type is {_Spec.ModelType.Name(kind).lower()}, not bpe'
  if not proto.trainer_spec.byte_fallback:
    return 'it has no byte_fallback'
  return sentencepiece_models.alters_text(proto) or bpe.problem(
    tokenizer.pieces
  )


def check(tokenizer: tokenizers.Tokenizer, path: str) -> None:
  """Raises ConfigError for a tokenizer that `write` does not support.

  Args:
    tokenizer: any tokenizer.
    path: config path of the tokenizer, for the message.

  Raises:
    ConfigError: an exported tokenizer would produce other ids than in training.
  """
  reason = problem(tokenizer)
  if reason:
    raise errors.ConfigError(
      path,
      f'the tokenizer cannot be exported: {reason}',
      legal='a byte-fallback BPE model that does not normalize text '
      '(model_type=bpe, byte_fallback, normalization_rule_name=identity, '
      'add_dummy_prefix=false, remove_extra_whitespaces=false)',
    )


def write(
  tokenizer: tokenizers.Tokenizer,
  directory: str,
  chat_template: str,
  with_images: bool = False,
) -> None:
  """Writes the files of a tokenizer to a folder.

  The files of a byte-level BPE are written unchanged. A SentencePiece model is
  written as tokenizer.model, tokenizer.json, its config and the special tokens.

  Args:
    tokenizer: a byte-level BPE, or a byte-fallback BPE model that does not
      normalize text, such as Gemma's and 'bytes'.
    directory: output folder, created if missing; existing files are replaced.
    chat_template: the Jinja text of a templates.Template. The tokenizer's own
      text is kept if it writes that template by default.
    with_images: whether a SentencePiece model's files define the image tokens,
      for transformers' processor.

  Raises:
    ConfigError: see `check`.
  """
  check(tokenizer, 'data.tokenizer')
  os.makedirs(directory, exist_ok=True)
  if isinstance(tokenizer, byte_level_tokenizer.ByteLevelTokenizer):
    files = tokenizer.files()
    # checkpoints.huggingface writes this file, with the same stop ids.
    files.pop(byte_level_tokenizer.GENERATION_CONFIG, None)
  else:
    files = _sentencepiece_files(tokenizer, chat_template, with_images)
  atomic_files.write_all(directory, files)
  written = chat_templates.read_folder(directory)
  wanted = chat_templates.names(chat_template)[:1]
  if written is None or written.names[:1] != wanted:
    # transformers prefers this file to the field of tokenizer_config.json.
    path = os.path.join(directory, chat_templates.FILE)
    atomic_files.write_bytes(path, chat_template.encode('utf-8'))


def _sentencepiece_files(
  tokenizer: sentencepiece_tokenizer.SentencePieceTokenizer,
  chat_template: str,
  with_images: bool,
) -> dict[str, bytes]:
  """Returns the files of a SentencePiece model by name."""
  names = _special_names(tokenizer)
  fast = _fast(tokenizer)
  images = {}
  if with_images:
    special = _image_names(tokenizer)
    images = {'extra_special_tokens': special}
    listed = {token['id']: token for token in fast['added_tokens']}
    by_id = zip(tokenizer.image_ids, special.values(), strict=True)
    for index, text in by_id:
      listed[index] = _added_token(index, text, is_special=True)
    fast['added_tokens'] = [listed[index] for index in sorted(listed)]
  config = {
    **names,
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'add_bos_token': True,
    'add_eos_token': False,
    'clean_up_tokenization_spaces': False,
    'model_max_length': 10**30,  # transformers' value for "no limit".
    'chat_template': chat_template,
    **images,
  }
  return {
    **tokenizer.files(),
    added_tokens.TOKENIZER_JSON: _dump(fast),
    added_tokens.CONFIG: _dump(config),
    'special_tokens_map.json': _dump(names),
  }


def _special_names(
  tokenizer: sentencepiece_tokenizer.SentencePieceTokenizer,
) -> dict[str, str]:
  """Returns the texts of the BOS, EOS, padding and unknown tokens."""
  ids = {
    'bos_token': tokenizer.bos_id,
    'eos_token': tokenizer.eos_id,
    'pad_token': tokenizer.pad_id,
    'unk_token': tokenizer.unk_id,
  }
  return {name: tokenizer.pieces[index][0] for name, index in ids.items()}


def _fast(
  tokenizer: sentencepiece_tokenizer.SentencePieceTokenizer,
) -> dict[str, Any]:
  """Returns the contents of tokenizer.json for the `tokenizers` library."""
  space = sentencepiece_models.SPACE
  pieces = tokenizer.pieces
  bos = pieces[tokenizer.bos_id][0]
  single = [
    {'SpecialToken': {'id': bos, 'type_id': 0}},
    {'Sequence': {'id': 'A', 'type_id': 0}},
  ]
  pair = single + [
    {'SpecialToken': {'id': bos, 'type_id': 1}},
    {'Sequence': {'id': 'B', 'type_id': 1}},
  ]
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': _added(tokenizer),
    'normalizer': {
      'type': 'Replace',
      'pattern': {'String': ' '},
      'content': space,
    },
    # Text is not split: BPE merges across words, as in SentencePiece.
    'pre_tokenizer': None,
    'post_processor': {
      'type': 'TemplateProcessing',
      'single': single,
      'pair': pair,
      'special_tokens': {
        bos: {'id': bos, 'ids': [tokenizer.bos_id], 'tokens': [bos]},
      },
    },
    'decoder': {
      'type': 'Sequence',
      'decoders': [
        {'type': 'Replace', 'pattern': {'String': space}, 'content': ' '},
        {'type': 'ByteFallback'},
        {'type': 'Fuse'},
      ],
    },
    'model': {
      'type': 'BPE',
      'dropout': None,
      'unk_token': pieces[tokenizer.unk_id][0],
      'continuing_subword_prefix': None,
      'end_of_word_suffix': None,
      'fuse_unk': True,
      'byte_fallback': True,
      'ignore_merges': False,
      'vocab': {piece: i for i, (piece, _, _) in enumerate(pieces)},
      'merges': bpe.merges(pieces),
    },
  }


def _added(
  tokenizer: sentencepiece_tokenizer.SentencePieceTokenizer,
) -> list[dict[str, Any]]:
  """Returns the tokens that are matched in text before merging.

  BOS, EOS, padding and unknown tokens must be listed, so `tokenizers` matches
  them in text, unlike SentencePiece. Other control tokens are left out, so that
  neither matches them.
  """
  kind = sentencepiece_models.Type
  special = {tokenizer.id_of(mark) for mark in gemma_template.MARKS}
  special |= {tokenizer.bos_id, tokenizer.eos_id}
  special |= {tokenizer.pad_id, tokenizer.unk_id}
  added = []
  for index, (piece, _, of_kind) in enumerate(tokenizer.pieces):
    is_special = index in special
    if is_special or of_kind == kind.USER_DEFINED:
      added.append(_added_token(index, piece, is_special))
  return added


def _added_token(index: int, text: str, is_special: bool) -> dict[str, Any]:
  return {
    'id': index,
    'content': text,
    'single_word': False,
    'lstrip': False,
    'rstrip': False,
    'normalized': False,
    'special': is_special,
  }


def _image_names(
  tokenizer: sentencepiece_tokenizer.SentencePieceTokenizer,
) -> dict[str, str]:
  """Returns the texts of the image tokens by transformers' names.

  The soft token may have no piece: Gemma's is the id after the vocabulary.
  """
  start, soft, end = tokenizer.image_ids
  pieces = tokenizer.pieces
  return {
    'boi_token': pieces[start][0],
    'image_token': (
      pieces[soft][0]
      if soft < len(pieces)
      else sentencepiece_models.SOFT_IMAGE_TOKEN
    ),
    'eoi_token': pieces[end][0],
  }


def _dump(value: Mapping[str, Any]) -> bytes:
  return json.dumps(value, ensure_ascii=False, indent=1).encode('utf-8')
