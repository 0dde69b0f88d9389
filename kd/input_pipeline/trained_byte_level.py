"""Trains byte-level BPE tokenizers for tests and writes them like Qwen3's."""

import argparse
from collections.abc import Iterable
import functools
import inspect
import json
import os
from typing import Any

import gguf
import numpy as np

from kd.input_pipeline import byte_level_tokenizer
from kd.input_pipeline import templates

_REGEX = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
SPECIAL = (
  '<|endoftext|>',
  '<|im_start|>',
  '<|im_end|>',
  '<|object_ref_start|>',
)
OTHERS = ('<tool_call>', '</tool_call>', '<think>', '</think>')
VOCABULARY = 600  # Number of tokens without added ones.


def _lines() -> Iterable[str]:
  yield from inspect.getsource(argparse).splitlines()
  yield from ['caf\u00e9 \u4f60\u597d ab a b 12 \U0001f600 <|x|> #### 1'] * 20


@functools.cache
def tokenizer_json() -> str:
  """Trains a tokenizer with Qwen3's pipeline: NFC, a regex, bytes, merges.

  Returns:
    The contents of tokenizer.json.
  """
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import normalizers
  from tokenizers import pre_tokenizers
  from tokenizers import processors
  from tokenizers import trainers

  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.normalizer = normalizers.NFC()
  as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(tokenizers.Regex(_REGEX), 'isolated'), as_bytes]
  )
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
  trainer = trainers.BpeTrainer(
    vocab_size=VOCABULARY,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(_lines(), trainer)
  tokenizer.add_special_tokens(list(SPECIAL))
  tokenizer.add_tokens(
    [tokenizers.AddedToken(text, normalized=False) for text in OTHERS]
  )
  return tokenizer.to_str()


def write(folder: str | os.PathLike, **config: Any) -> str:
  """Writes a folder like those of Qwen3's chat models, without weights.

  Args:
    folder: existing folder.
    **config: fields of tokenizer_config.json to change.

  Returns:
    The `hf:` source.
  """
  values = {
    'add_bos_token': False,
    'additional_special_tokens': list(SPECIAL[1:]),
    'bos_token': None,
    'clean_up_tokenization_spaces': False,
    'eos_token': '<|im_end|>',
    'model_max_length': 131072,
    'pad_token': '<|endoftext|>',
    'tokenizer_class': 'Qwen2Tokenizer',
    'unk_token': None,
  }
  for name, text in (
    ('tokenizer.json', tokenizer_json()),
    ('tokenizer_config.json', json.dumps(values | config)),
  ):
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as f:
      f.write(text)
  return f'hf:{folder}'


def metadata(
  tokenizer: byte_level_tokenizer.ByteLevelTokenizer,
) -> dict[str, Any]:
  """Returns the metadata that llama.cpp's converter writes for such a folder.

  Args:
    tokenizer: tokenizer of the folder.

  Returns:
    The fields of `tokenizer.ggml.`, for an embedding with 8 extra rows.
  """
  kinds = [gguf.TokenType.NORMAL] * VOCABULARY
  kinds += [gguf.TokenType.CONTROL] * len(SPECIAL)
  kinds += [gguf.TokenType.USER_DEFINED] * len(OTHERS)
  padding = [f'[PAD{i}]' for i in range(len(kinds), len(kinds) + 8)]
  kinds += [gguf.TokenType.UNUSED] * len(padding)
  return {
    'model': 'gpt2',
    'pre': 'qwen2',
    'tokens': [*tokenizer.tokens, *padding],
    'token_type': [int(kind) for kind in kinds],
    'merges': [' '.join(pair) for pair in tokenizer.spec.merges],
    'eos_token_id': VOCABULARY + 2,
    'padding_token_id': VOCABULARY,
    'bos_token_id': VOCABULARY,
    'add_bos_token': False,
  }


def write_gguf(
  path: str | os.PathLike,
  tokenizer: byte_level_tokenizer.ByteLevelTokenizer,
  with_tensors: bool = False,
  **fields: Any,
) -> str:
  """Writes the GGUF file that llama.cpp's converter writes for such a folder.

  Args:
    path: the file.
    tokenizer: tokenizer of the folder.
    with_tensors: whether to add a tiny model, without which llama.cpp cannot
      load the file.
    **fields: fields of `tokenizer.ggml.` to change; None leaves one out.

  Returns:
    The `gguf:` source.
  """
  writer = gguf.GGUFWriter(path, 'qwen3')
  values = metadata(tokenizer)
  for name, value in (values | fields).items():
    key = f'tokenizer.ggml.{name}'
    if isinstance(value, bool):
      writer.add_bool(key, value)
    elif isinstance(value, int):
      writer.add_uint32(key, value)
    elif isinstance(value, str):
      writer.add_string(key, value)
    elif value is not None:
      writer.add_array(key, value)
  writer.add_chat_template(templates.TEMPLATES['qwen3'].jinja)
  if with_tensors:
    _add_model(writer, len(values['tokens']))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return f'gguf:{path}'


def _add_model(writer: gguf.GGUFWriter, rows: int) -> None:
  """Adds a Qwen3 model with one layer and width 32."""
  for key in ('embedding_length', 'feed_forward_length', 'context_length'):
    writer.add_uint32(f'qwen3.{key}', 32)
  for key in ('head_count', 'head_count_kv'):
    writer.add_uint32(f'qwen3.attention.{key}', 1)
  for key in ('key_length', 'value_length'):
    writer.add_uint32(f'qwen3.attention.{key}', 32)
  writer.add_block_count(1)
  writer.add_layer_norm_rms_eps(1e-6)
  writer.add_rope_freq_base(1e6)
  matrices = ('attn_q', 'attn_k', 'attn_v', 'attn_output')
  matrices += ('ffn_gate', 'ffn_up', 'ffn_down')
  vectors = ('attn_norm', 'ffn_norm', 'attn_q_norm', 'attn_k_norm')
  shapes = {f'blk.0.{name}': (32, 32) for name in matrices}
  shapes |= {f'blk.0.{name}': (32,) for name in vectors}
  shapes |= {'token_embd': (rows, 32), 'output_norm': (32,)}
  for name, shape in shapes.items():
    writer.add_tensor(f'{name}.weight', np.ones(shape, np.float32))
