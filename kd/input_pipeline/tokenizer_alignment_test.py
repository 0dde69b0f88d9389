"""Aligned spans cover the text and are minimal."""

import itertools
import random

import numpy as np
import pytest

from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import tokenizer_alignment
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_byte_level
from kd.input_pipeline import trained_models

# Digits, runs of spaces, bytes of characters without a token, emoji, CJK.
_TEXTS = (
  *(
    '12345 + 678 = 13023',
    '   deep\n      deeper  \t end ',
    'na\u00efve \u00e9',
  ),
  *('\U0001f600\U0001f469\u200d\U0001f680!', '\u4f60\u597d\u4e16\u754c 42', ''),
  'def parse_args(self, args=None, namespace=None):\n    return 1000000',
)


@pytest.fixture(scope='module')
def every(tmp_path_factory):
  folder = tmp_path_factory.mktemp('byte_level')
  wide = {**trained_models.GEMMA, 'split_digits': False}
  sentencepiece = [
    sentencepiece_tokenizer.SentencePieceTokenizer(trained_models.train(**o))
    for o in (trained_models.GEMMA, wide)
  ]
  return (
    tokenizers.load('bytes'),
    *sentencepiece,
    tokenizers.load(trained_byte_level.write(folder)),
  )


def _texts():
  rng = random.Random(0)
  pieces = [text[i : i + 3] for text in _TEXTS for i in range(len(text))]
  yield from _TEXTS
  for _ in range(40):
    yield ''.join(rng.choices(pieces, k=rng.randrange(12)))


def _tokens(tokenizer, text):
  return [tokenizer.bytes_of(i) for i in tokenizer.encode(text)]


def _by_hand(first, second):
  """Takes tokens of the side that is behind until both reach the same byte."""
  spans, sides, numbers = 0, (list(first), list(second)), ([], [])
  while any(sides):
    read = [b'', b'']
    while not read[0] or len(read[0]) != len(read[1]):
      side = int(len(read[1]) < len(read[0]))
      read[side] += sides[side].pop(0)
      numbers[side].append(spans)
    assert read[0] == read[1]
    spans += 1
  return numbers


def test_bytes_of_tokens_equal_the_texts(every):
  for tokenizer, text in itertools.product(every, _texts()):
    assert b''.join(_tokens(tokenizer, text)) == text.encode()
  for tokenizer in every:
    assert tokenizer.bytes_of(tokenizer.eos_id) is None
  gemma, qwen = every[1], every[3]
  assert gemma.bytes_of(gemma.id_of('<start_of_turn>')) == b'<start_of_turn>'
  assert qwen.bytes_of(qwen.id_of('<|im_start|>')) == b'<|im_start|>'


def test_spans_are_the_smallest_common_ranges(every):
  for (one, other), text in itertools.product(
    itertools.product(every, every), _texts()
  ):
    sides = [_tokens(tokenizer, text) for tokenizer in (one, other)]
    found = tokenizer_alignment.spans(*map(tokenizer_alignment.ends, sides))
    for got, expected in zip(found, _by_hand(*sides), strict=True):
      assert got.tolist() == expected, text
    if one is other:
      assert found[0].tolist() == list(range(len(sides[0])))


def test_single_digits_share_the_span_of_a_grouped_number():
  first = tokenizer_alignment.ends([b'a', b'1', b'2', b'3', b' ', b'4'])
  second = tokenizer_alignment.ends([b'a', b'123', b' 4'])
  spans = tokenizer_alignment.spans(first, second)
  assert [x.tolist() for x in spans] == [[0, 1, 1, 1, 2, 2], [0, 1, 2]]


def test_texts_of_different_lengths_have_no_spans():
  with pytest.raises(ValueError, match='2 and 3 bytes'):
    tokenizer_alignment.spans(np.array([1, 2]), np.array([3]))
  with pytest.raises(ValueError, match='is empty'):
    tokenizer_alignment.spans(np.array([1]), np.array([], int))
