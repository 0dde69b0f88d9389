"""Trains SentencePiece models for tests within a second."""

import argparse
import functools
import inspect
import io
from typing import Any

import sentencepiece

# The options of Gemma's model that affect ids.
GEMMA = dict(
  model_type='bpe',
  byte_fallback=True,
  normalization_rule_name='identity',
  add_dummy_prefix=False,
  remove_extra_whitespaces=False,
  split_digits=True,
  user_defined_symbols=('<start_of_turn>', '<end_of_turn>', '\u2581\u2581'),
)


@functools.cache
def _train(options: tuple[tuple[str, Any], ...]) -> bytes:
  lines = inspect.getsource(argparse).splitlines() + ['caf\u00e9 \u4f60\u597d']
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines),
    model_writer=out,
    vocab_size=800,
    minloglevel=2,
    **{k: list(v) if isinstance(v, tuple) else v for k, v in options},
  )
  return out.getvalue()


def train(**options: Any) -> bytes:
  """Trains a model of 800 pieces on the source of a module.

  Args:
    **options: options of SentencePieceTrainer.train, in addition to Gemma's
      special ids 0 to 3.

  Returns:
    The serialized ModelProto.
  """
  special = dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3)
  special |= dict(eos_piece='<eos>', bos_piece='<bos>')
  return _train(tuple(sorted((special | options).items())))
