"""Metadata of tokenizers in GGUF files, and rejected tokenizers."""

import pytest

from kd.core import errors
from kd.input_pipeline import chat_templates
from kd.input_pipeline import gguf_tokenizers
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_byte_level

_Type = sentencepiece_models.Type


def _with_pieces(*more):
  """Returns the byte tokenizer with a few more pieces."""
  proto = sentencepiece_models.parse(sentencepiece_models.from_bytes(), '')
  pieces = [(p.piece, p.score, p.type) for p in proto.pieces]
  return sentencepiece_tokenizer.SentencePieceTokenizer(
    sentencepiece_models.serialize([*pieces, *more], pad=0, eos=1, bos=2, unk=3)
  )


def test_types_and_scores_of_pieces():
  added = ['<unused0>', '<mask>', '<b>', '\u2581\u2581']
  normal = [('ab', -3.0), ('a', -4.0), ('b', -5.0)]
  tokenizer = _with_pieces(
    *((*piece, _Type.NORMAL) for piece in normal),
    *((x, 0.0, _Type.USER_DEFINED) for x in added),
  )
  fields = gguf_tokenizers.fields(tokenizer, 300, 'gemma', 'data.tokenizer')
  tokens, kinds, scores = (
    fields[f'tokenizer.ggml.{name}']
    for name in ('tokens', 'token_type', 'scores')
  )
  assert len(tokens) == tokenizer.vocab_size
  assert tokens[263:] == ['ab', 'a', 'b', '<unused0>', '<mask>', '<b>', '  ']
  assert kinds == [3] * 6 + [1] + [6] * 256 + [1, 1, 1, 3, 3, 4, 4]
  assert (
    scores == [-1000.0] * 6 + [0.0] * 257 + [-3.0, -4.0, -5.0] + [-1000.0] * 4
  )
  jinja = fields['tokenizer.chat_template']
  assert chat_templates.names(jinja)[0] == 'gemma'
  assert 'generation -' not in jinja  # Older readers reject such blocks.
  plain = gguf_tokenizers.fields(tokenizer, 300, 'plain', 'data.tokenizer')
  assert 'tokenizer.chat_template' not in plain


def test_a_byte_level_tokenizer_is_written_as_published(tmp_path):
  """Like llama.cpp's converter; see trained_byte_level."""
  spec = trained_byte_level.write(tmp_path)
  tokenizer = tokenizers.load(spec)
  fields = gguf_tokenizers.fields(
    tokenizer, tokenizer.vocab_size + 8, 'qwen3', 'data.tokenizer'
  )
  published = trained_byte_level.metadata(tokenizer)
  assert {
    key.removeprefix('tokenizer.ggml.'): value
    for key, value in fields.items()
    if key != 'tokenizer.chat_template'
  } == published


def test_tokenizers_that_llama_cpp_reads_differently_are_refused(tmp_path):
  size = trained_byte_level.VOCABULARY + 8
  twice = trained_byte_level.tokenizer_json().replace(
    trained_byte_level.OTHERS[0], f'[PAD{size}]'
  )
  trained_byte_level.write(tmp_path)
  (tmp_path / 'tokenizer.json').write_text(twice)
  with pytest.raises(errors.ConfigError, match="have the text '.PAD608.'"):
    gguf_tokenizers.fields(
      tokenizers.load(f'hf:{tmp_path}'), 700, 'qwen3', 'data.tokenizer'
    )
  value = trained_byte_level.tokenizer_json().replace('p{N}|', 'p{N}{1,3}|')
  (tmp_path / 'tokenizer.json').write_text(value)
  with pytest.raises(errors.ConfigError, match='pre_tokenizer is .* here'):
    gguf_tokenizers.fields(
      tokenizers.load(f'hf:{tmp_path}'), 700, 'qwen3', 'data.tokenizer'
    )
