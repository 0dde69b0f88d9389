"""Trains the student's tokenizer: numbers of several digits are one token.

  python -m experiments.other_tokenizer.train_tokenizer FILE

The quickstart's teacher reads bytes. This SentencePiece model has 264 pieces,
as many as the student's embedding has rows: the characters of the problems and
groups of digits. Its special ids are Gemma's.
"""

import io
import os
import re
import sys

import sentencepiece

from kd.core import atomic_files
from kd.input_pipeline import arithmetic

_SEED, _PROBLEMS = 1, 3_000


def train() -> bytes:
  """Returns the serialized model; it is always the same."""
  out = io.BytesIO()
  problems = arithmetic.generate('train', _PROBLEMS, 2, 3, _SEED)
  texts = [
    f'Q: {p.question}=?\nA: {" ".join(p.steps)} #### {p.answer}'
    for p in problems
  ]
  # Without this split, SentencePiece would merge digits with operators.
  lines = [part for text in texts for part in re.findall(r' ?\d+|[^\d]+', text)]
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines),
    model_writer=out,
    model_type='bpe',
    vocab_size=264,
    normalization_rule_name='identity',
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    split_digits=False,
    user_defined_symbols=['<start_of_turn>', '<end_of_turn>'],
    **dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3),
    **dict(eos_piece='<eos>', bos_piece='<bos>'),
    num_threads=1,
    minloglevel=2,
  )
  return out.getvalue()


if __name__ == '__main__':
  file = sys.argv[1]
  os.makedirs(os.path.dirname(file) or '.', exist_ok=True)
  atomic_files.write_bytes(file, train())
