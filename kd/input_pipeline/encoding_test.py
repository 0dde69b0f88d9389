"""Encoding: weights of turns, chunks of documents, too long examples."""

import numpy as np
import pytest

from kd.core import errors
from kd.input_pipeline import encoding
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers

_BOS, _EOS = 2, 1
_TEXT = 'abcdefghijklmnopqrstuvwxyz'


@pytest.fixture(scope='module')
def tokenizer():
  return tokenizers.load('bytes')


class _WithoutBos:
  """The byte tokenizer without BOS, like Qwen's."""

  bos_id = None

  def __init__(self, tokenizer):
    self.encode, self.eos_id = tokenizer.encode, tokenizer.eos_id
    self.decode = tokenizer.decode


@pytest.mark.parametrize('has_bos', [True, False])
@pytest.mark.parametrize('overlap', [0, 3])
@pytest.mark.parametrize('length', [4, 9, 26, 27])
def test_each_token_of_a_document_is_a_target_once(
  tokenizer, length, overlap, has_bos
):
  used = tokenizer if has_bos else _WithoutBos(tokenizer)
  encoder = encoding.Encoder(used, 'plain', length, 'chunk', overlap)
  chunks = encoder.encode({'id': 'a', 'text': _TEXT}, 7)
  targets, context = [], []
  for number, chunk in enumerate(chunks):
    assert chunk.index == 7 and chunk.positions <= length
    assert (chunk.ids[0] == _BOS) == has_bos
    weighed = chunk.ids[1:][chunk.weights[1:] == 1].tolist()
    context.append(chunk.positions - len(weighed))
    targets += weighed
    if number < len(chunks) - 1:
      assert chunk.positions == length
  whole = encoding.Encoder(used, 'plain', 999).encode(
    {'id': 'a', 'text': _TEXT}, 7
  )
  assert encoder.chunk_sizes(whole[0].positions, length) == [
    chunk.positions for chunk in chunks
  ]
  first = [] if has_bos else tokenizer.encode('a')
  assert first + targets == [*tokenizer.encode(_TEXT), _EOS]
  # Without BOS, the first id is never predicted, so it already is context.
  repeated = overlap if has_bos else max(overlap - 1, 0)
  assert context == [0] + [repeated] * (len(chunks) - 1)


def test_long_examples_are_dropped_or_refused(tokenizer):
  document = {'id': 'a', 'text': _TEXT}
  pair = {'id': 'b', 'inputs': _TEXT, 'targets': 'x', 'rationale': ''}
  for long, example in (('drop', document), ('drop', pair), ('chunk', pair)):
    encoder = encoding.Encoder(tokenizer, 'plain', 20, long)
    (whole,) = encoder.encode(example, 0)
    assert whole.positions > 20
  for example, legal in ((document, "'chunk'"), (pair, "'drop'")):
    with pytest.raises(errors.ConfigError, match=f'data.long {legal}'):
      encoding.Encoder(tokenizer, 'plain', 20, 'refuse').encode(example, 0)


def test_each_message_has_its_own_weight(tokenizer):
  chat = [
    {'role': 'system', 'content': 'Be brief.', 'weight': 0.0},
    {'role': 'user', 'content': 'weather?', 'weight': 0.0},
    {
      'role': 'assistant',
      'content': 'Wait.',
      'weight': 0.5,
      'tool_calls': [{'name': 'get', 'arguments': {'city': 'Köln'}}],
    },
    {'role': 'tool', 'content': '3 C', 'weight': 0.0},
    {'role': 'tool', 'content': 'rain', 'weight': 0.0},
    {'role': 'assistant', 'content': 'Cold.', 'weight': 0.0},
    {'role': 'user', 'content': 'Thanks', 'weight': 0.0},
    {'role': 'assistant', 'content': 'Bye', 'weight': 1.0},
  ]
  encoder = encoding.Encoder(tokenizer, 'gemma', 999)
  (example,) = encoder.encode({'id': 'a', 'messages': chat}, 0)
  assert tokenizer.decode(example.ids.tolist()) == (
    '<start_of_turn>user\nBe brief.\n\nweather?<end_of_turn>\n'
    '<start_of_turn>model\nWait.\n'
    '{"name": "get", "parameters": {"city": "Köln"}}<end_of_turn>\n'
    '<start_of_turn>user\n```tool_output\n3 C\n```\n```tool_output\nrain\n```'
    '<end_of_turn>\n'
    '<start_of_turn>model\nCold.<end_of_turn>\n'
    '<start_of_turn>user\nThanks<end_of_turn>\n'
    '<start_of_turn>model\nBye<end_of_turn>\n'
  )

  def said(weight):
    return tokenizer.decode(example.ids[example.weights == weight].tolist())

  assert said(1.0) == 'Bye<end_of_turn>'
  assert said(0.5) == (
    'Wait.\n{"name": "get", "parameters": {"city": "Köln"}}<end_of_turn>'
  )
  with pytest.raises(errors.ConfigError, match="example 'a'.*turns"):
    encoding.Encoder(tokenizer, 'plain', 999).encode(
      {'id': 'a', 'messages': chat}, 0
    )


def test_pairs_are_encoded_as_before(tokenizer):
  (example,) = encoding.Encoder(tokenizer, 'gemma', 99).encode(
    {'id': 'b', 'inputs': '1+1?', 'targets': '1+1=2 2', 'rationale': '1+1=2'}, 3
  )
  columns = templates.encode(
    tokenizer, 'gemma', templates.exchange('1+1?', '1+1=2 2', '1+1=2')
  )
  ours = example.ids, example.parts, example.weights
  for column, expected in zip(ours, columns, strict=True):
    np.testing.assert_array_equal(column, expected)
  assert example.parts.any() and example.index == 3
