import os

import pytest
from sentencepiece import sentencepiece_model_pb2

from kd.core import errors
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_models

_Type = sentencepiece_models.Type


@pytest.mark.parametrize(
  'options, message',
  [
    # spm_train's own defaults.
    (dict(), 'its model_type is unigram, not bpe'),
    (dict(model_type='bpe'), 'it has no byte_fallback'),
    (dict(model_type='word'), 'its model_type is word, not bpe'),
    (
      dict(model_type='bpe', byte_fallback=True),
      "its normalizer is 'nmt_nfkc'",
    ),
    (
      trained_models.GEMMA | dict(normalization_rule_name='nfkc_cf'),
      "its normalizer is 'nfkc_cf'",
    ),
    (trained_models.GEMMA | dict(add_dummy_prefix=True), 'add_dummy_prefix'),
    (
      trained_models.GEMMA | dict(remove_extra_whitespaces=True),
      'remove_extra_whitespaces',
    ),
    (
      trained_models.GEMMA | dict(treat_whitespace_as_suffix=True),
      'treat_whitespace_as_suffix',
    ),
    (
      trained_models.GEMMA | dict(user_defined_symbols=('a b',)),
      'contains a space',
    ),
  ],
)
def test_tokenizers_without_an_equal_export_are_refused(
  options, message, tmp_path
):
  tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer(
    trained_models.train(**options)
  )
  with pytest.raises(errors.ConfigError, match=message) as caught:
    hf_tokenizer.write(tokenizer, tmp_path, '')
  assert str(caught.value).startswith('data.tokenizer: the tokenizer cannot be')
  assert not os.listdir(tmp_path)


def _gemma(change):
  proto = sentencepiece_model_pb2.ModelProto.FromString(
    trained_models.train(**trained_models.GEMMA)
  )
  change(proto)
  return sentencepiece_tokenizer.SentencePieceTokenizer(
    proto.SerializeToString()
  )


def test_scores_without_an_equal_list_of_merges_are_refused():
  def joined(proto):
    return [
      p for p in proto.pieces if p.type == _Type.NORMAL and len(p.piece) > 1
    ]

  def tie(proto):
    joined(proto)[1].score = joined(proto)[0].score

  def unused(proto):
    joined(proto)[0].type = _Type.UNUSED

  def lacking(proto):
    proto.pieces.add(piece='a\U0001f600', score=-9999, type=_Type.NORMAL)

  assert hf_tokenizer.problem(_gemma(lambda proto: None)) == ''
  assert 'have the same score' in hf_tokenizer.problem(_gemma(tie))
  assert 'is marked as unused' in hf_tokenizer.problem(_gemma(unused))
  assert 'which is not a piece' in hf_tokenizer.problem(_gemma(lacking))


@pytest.mark.parametrize('files', ['all files', 'tokenizer.json'])
def test_folders_with_image_tokens_are_read_as_before(files, tmp_path):
  tokenizer = tokenizers.load('bytes')
  hf_tokenizer.write(tokenizer, tmp_path, '', with_images=True)
  if files != 'all files':
    os.remove(tmp_path / sentencepiece_models.MODEL_FILE)
  again = tokenizers.load(f'hf:{tmp_path}')
  assert again.pieces == tokenizer.pieces
  assert again.image_ids == tokenizer.image_ids == (261, 263, 262)
  text = 'a<0xFE><image_soft_token>'
  assert again.encode(text) == tokenizer.encode(text)
