"""Offsets computed from pieces equal those of the SentencePiece library."""

import random

import numpy as np
import pytest
import sentencepiece

from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import trained_models

_ALPHABET = (
  *'  \n\t\x00aeru19.=_',
  *'\u00e9\u0301\u4f60\ufb01\u0928\u200d\u2581\U0001f600',
  *('the', ' self', 'def f(x):', '<0x41>', '<unk>', '<bos>', '    '),
  *('<start_of_turn>', '<end_of_turn>user', 'parser.add', '12345'),
)


def _texts():
  rng = random.Random(0)
  yield from ('', *_ALPHABET, ' ' * 40, '\U0001f600' * 7)
  for _ in range(400):
    yield ''.join(rng.choices(_ALPHABET, k=rng.randrange(40)))


_MODELS = {
  'bytes': (sentencepiece_models.from_bytes, False),
  'gemma': (lambda: trained_models.train(**trained_models.GEMMA), False),
  # The unknown id can represent one or several characters.
  'unknown': (
    lambda: trained_models.train(
      **trained_models.GEMMA | dict(byte_fallback=False)
    ),
    True,
  ),
  'nfkc': (
    lambda: trained_models.train(
      **trained_models.GEMMA | dict(normalization_rule_name='nfkc')
    ),
    True,
  ),
}


@pytest.mark.parametrize('name', _MODELS)
def test_offsets_equal_the_librarys(name, monkeypatch):
  model, asks = _MODELS[name]
  proto = model()
  tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer(proto)
  processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
  asked = []
  encode = tokenizer._processor.encode

  def note(text, return_type=int):
    asked.append(return_type)
    return encode(text, return_type=return_type)

  monkeypatch.setattr(tokenizer._processor, 'encode', note)
  for text in _texts():
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids.dtype == offsets.dtype == np.int32
    expected = processor.encode(text, return_type='offset_mapping')
    assert ids.tolist() == expected['ids']
    assert offsets.tolist() == [
      [begin, max(end, begin + 1)] for begin, end in expected['offsets']
    ], repr(text)
  assert ('offset_mapping' in asked) == asks
