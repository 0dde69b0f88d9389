"""Trains byte-level BPE tokenizers for tests, and writes them as Qwen3's."""

import argparse
from collections.abc import Iterable
import functools
import inspect
import json
import os
from typing import Any

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
VOCABULARY = 600  # Tokens without the added ones.


def _lines() -> Iterable[str]:
  yield from inspect.getsource(argparse).splitlines()
  yield from ['caf\u00e9 \u4f60\u597d ab a b 12 \U0001f600 <|x|> #### 1'] * 20


@functools.cache
def tokenizer_json() -> str:
  """Trains a tokenizer in Qwen3's pipeline: NFC, a regex, bytes, merges.

  Returns:
    tokenizer.json.
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
  """Writes a folder as Qwen3's chat models have it, without weights.

  Args:
    folder: exists.
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
