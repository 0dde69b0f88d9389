import pytest
from sentencepiece import sentencepiece_model_pb2

from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import tokenizer_differences

_Type = sentencepiece_models.Type


def _tokenizer(change=lambda model: None):
  """The byte tokenizer with two joined pieces, ids 263 and 264."""
  model = sentencepiece_model_pb2.ModelProto.FromString(
    sentencepiece_models.from_bytes()
  )
  for text, score in (('a', -3), ('b', -4), ('ab', -1), ('ba', -2)):
    model.pieces.add(piece=text, score=score, type=_Type.NORMAL)
  change(model)
  return sentencepiece_tokenizer.SentencePieceTokenizer(
    model.SerializeToString()
  )


def _set(index, **fields):
  def change(model):
    for name, value in fields.items():
      setattr(model.pieces[index], name, value)

  return change


def test_equal_ids_are_not_a_difference():
  def other_scores(model):
    # The same order, with scores of bytes and marks as in GGUF files.
    for piece in model.pieces:
      if piece.type == _Type.NORMAL:
        piece.score = piece.score * 10 - 5
      elif piece.type == _Type.USER_DEFINED:
        piece.score = -1000

  for change in (lambda model: None, other_scores):
    other = _tokenizer(change)
    assert tokenizer_differences.describe(_tokenizer(), other) == ''
    assert other.encode('abba ab') == _tokenizer().encode('abba ab')


@pytest.mark.parametrize(
  'change, message',
  [
    (_set(265, piece='xy'), "id 265 is 'ab' here, 'xy' there"),
    (_set(266, type=_Type.USER_DEFINED), "id 266 ('ba') is normal here, user"),
    (lambda m: m.pieces.pop(), 'it has 267 ids here, 266 there'),
    (_set(265, score=-9), "the rank of id 265 ('ab') is 0 here, 1 there"),
    (_set(265, score=-2), "the rank of id 266 ('ba') is 1 here, 0 there"),
    (
      lambda m: setattr(m.normalizer_spec, 'add_dummy_prefix', True),
      'add_dummy_prefix is False here, True there',
    ),
    (
      lambda m: setattr(m.trainer_spec, 'model_type', 1),
      "model_type is 'bpe' here, 'unigram' there",
    ),
    (
      lambda m: setattr(m.trainer_spec, 'pad_piece', '<none>'),
      'pad_id is 0 here, 1',
    ),
  ],
)
def test_the_first_difference_is_named(change, message):
  found = tokenizer_differences.describe(_tokenizer(), _tokenizer(change))
  assert found.startswith(message), found
