"""Ids of words equal those of SentencePiece for the whole text."""

import inspect
import random

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from kd.input_pipeline import trained_models
from kd.input_pipeline import word_cache

_SPACE = '\u2581'


def _model(*pieces, **options):
  """Returns a model with more pieces, each (text, score), and its processor."""
  proto = sentencepiece_model_pb2.ModelProto.FromString(
    trained_models.train(**trained_models.GEMMA | options)
  )
  for piece, score in pieces:
    proto.pieces.add(piece=piece, score=score)
  proto.trainer_spec.vocab_size = len(proto.pieces)
  return proto, sentencepiece.SentencePieceProcessor(
    model_proto=proto.SerializeToString()
  )


def _texts(count=300):
  """Yields parts of source code, some with characters replaced."""
  rng = random.Random(0)
  source = inspect.getsource(random) + ' \u4f60\u597d caf\u00e9 \U0001f600'
  for _ in range(count):
    begin = rng.randrange(len(source))
    text = list(source[begin : begin + rng.randrange(200)])
    for _ in range(rng.randrange(6) if text else 0):
      text[rng.randrange(len(text))] = rng.choice(f'  \n{_SPACE}\0a\U0001f600')
    yield ''.join(text)


@pytest.mark.parametrize('most', [1 << 16, 20])
def test_ids_equal_those_of_the_whole_text(most, monkeypatch):
  monkeypatch.setattr(word_cache, '_MOST', most)
  proto, processor = _model()
  assert word_cache.joining(proto) == (_SPACE,)
  words = word_cache.WordCache(processor, word_cache.joining(proto))
  for text in _texts():
    ids = words.encode(text)
    assert ids.tolist() == processor.encode(text), repr(text)
    assert len(words) <= most


def test_texts_of_new_words_are_encoded_as_a_whole(monkeypatch):
  monkeypatch.setattr(word_cache, '_FIRST', 100)
  proto, processor = _model()
  words = word_cache.WordCache(processor, word_cache.joining(proto))
  rng = random.Random(0)
  new = [
    ' '.join(f'{rng.randrange(10**6)}' for _ in range(40)) for _ in range(100)
  ]
  assert all(words.encode(x).tolist() == processor.encode(x) for x in new)
  # The first three, and one of 32 of the others.
  assert len(words) <= 40 * 7
  usual = inspect.getsource(random)[:1000]
  for _ in range(100):
    assert words.encode(usual).tolist() == processor.encode(usual)
  assert words.keys() >= {' the', ' random'}


def test_texts_with_pieces_that_join_words_are_encoded_as_a_whole():
  # The first merges before all others, after which nothing merges with it.
  joined = f's{_SPACE}a'
  proto, processor = _model((joined, 1.0), (f's{_SPACE}', 2.0))
  words = word_cache.WordCache(processor, word_cache.joining(proto))
  assert processor.id_to_piece(processor.encode('is a')) == ['i', joined]
  for text in ('is a', 'as at', *_texts()):
    assert words.encode(text).tolist() == processor.encode(text), repr(text)
  assert len(words) > 100


@pytest.mark.parametrize(
  'options',
  [
    dict(model_type='unigram'),
    dict(byte_fallback=False),
    dict(split_by_whitespace=False),
  ],
)
def test_other_models_are_left_to_the_library(options):
  assert word_cache.joining(_model(**options)[0]) is None
