"""Byte-level BPE vocabularies of GGUF files, and rejected files."""

import pytest

from kd.core import errors
from kd.input_pipeline import tokenizer_differences
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_byte_level

_SIZE = trained_byte_level.VOCABULARY
_TEXTS = (
  *('', ' ', "it's  self\n\n", '12 ab', 'e\u0301', '\u4f60\u597d', '\x00\t'),
  *('<|im_start|>user\n<think>', '<|endoftext|>', '\U0001f600', '[PAD608]'),
)


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  return tokenizers.load(
    trained_byte_level.write(tmp_path_factory.mktemp('qwen'))
  )


def test_tokenizers_are_read_back_from_gguf(tokenizer, tmp_path):
  read = tokenizers.load(
    trained_byte_level.write_gguf(tmp_path / 'a.gguf', tokenizer)
  )
  assert tokenizer_differences.describe(read, tokenizer) == ''
  assert read.digest == tokenizer.digest
  assert (read.bos_id, read.stop_ids) == (None, tokenizer.stop_ids)
  for text in _TEXTS:
    assert read.encode(text) == tokenizer.encode(text), repr(text)
  for name, data in read.files().items():
    (tmp_path / name).write_bytes(data)
  kept = tokenizers.load(f'workdir:{tmp_path}')
  assert (kept.digest, kept.stop_ids) == (read.digest, read.stop_ids)
  spec = trained_byte_level.write_gguf(
    tmp_path / 'b.gguf', tokenizer, add_bos_token=True
  )
  assert tokenizers.load(spec).bos_id == _SIZE


@pytest.mark.parametrize(
  'fields, message',
  [
    (
      dict(pre='deepseek-llm'),
      "ggml.pre: found 'deepseek-llm'; legal: 'qwen2'",
    ),
    (dict(merges=None), 'lacks the fields tokenizer.ggml.{merges}'),
    (dict(merges=[1, 2]), 'merges: is damaged'),
    (dict(merges=['a b c']), "model.merges: found 'a b c'"),
    (dict(merges=['zz q']), "'zz' is not a token of the vocabulary"),
    (dict(token_type=[1]), 'token_type: has 1 entries'),
    (dict(eos_token_id=10**6), 'eos token has id 1000000; legal: 0 to 607'),
    (
      dict(tokens=['a'], token_type=[1], eos_token_id=0)
      | dict(bos_token_id=None, padding_token_id=None),
      'has no token',
    ),
  ],
)
def test_a_damaged_gguf_is_refused(tokenizer, tmp_path, fields, message):
  spec = trained_byte_level.write_gguf(tmp_path / 'a.gguf', tokenizer, **fields)
  with pytest.raises(errors.ConfigError) as caught:
    tokenizers.load(spec, 'teacher.init')
  assert str(caught.value).startswith(f'teacher.init: {tmp_path}/a.gguf')
  assert message in str(caught.value)
