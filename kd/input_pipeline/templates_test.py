"""Templates: one BOS, the right tokens supervised, the seam, the turns."""

import pytest
from sentencepiece import sentencepiece_model_pb2

from kd.core import errors
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers

_CHAT = [
  {'role': 'user', 'content': ' Hi '},
  {'role': 'assistant', 'content': 'Yes. '},
  {'role': 'user', 'content': '2+2?'},
  {'role': 'assistant', 'content': '4'},
]


def _model(change):
  base = tokenizers.load('bytes')
  model = sentencepiece_model_pb2.ModelProto.FromString(base.model_proto)
  change(model)
  return tokenizers.Tokenizer(model.SerializeToString())


@pytest.fixture(scope='module')
def bytes_tokenizer():
  return tokenizers.load('bytes')


def _supervised(tokenizer, ids, weights):
  return tokenizer.decode([i for i, w in zip(ids, weights) if w])


def test_gemma_text():
  text, spans = templates.render('gemma', _CHAT)
  assert text == (
    '<bos><start_of_turn>user\nHi<end_of_turn>\n'
    '<start_of_turn>model\nYes.<end_of_turn>\n'
    '<start_of_turn>user\n2+2?<end_of_turn>\n'
    '<start_of_turn>model\n4<end_of_turn>\n'
  )
  assert [text[b:e] for b, e in spans] == [
    'Yes.<end_of_turn>',
    '4<end_of_turn>',
  ]


def test_end_of_turn_is_supervised(bytes_tokenizer):
  ids, weights = templates.encode(bytes_tokenizer, 'gemma', _CHAT)
  assert [w for i, w in zip(ids, weights) if i == 5] == [0, 1, 0, 1]
  assert _supervised(bytes_tokenizer, ids, weights) == (
    'Yes.<end_of_turn>4<end_of_turn>'
  )


def test_plain_supervises_answer_and_eos(bytes_tokenizer):
  ids, weights = templates.encode(
    bytes_tokenizer, 'plain', templates.exchange('abc', 'd')
  )
  assert ids == [2, 7 + 97, 7 + 98, 7 + 99, 7 + 100, 1]
  # Prompt of BOS and 3 ids, completion of 2: shifted targets weigh as here.
  assert weights[1:] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize('name', templates.NAMES)
def test_one_bos_whatever_is_written(bytes_tokenizer, name):
  messages = templates.exchange('<bos><eos>x', '<bos>y<eos>')
  ids, _ = templates.encode(bytes_tokenizer, name, messages)
  prompt = templates.encode_prompt(bytes_tokenizer, name, messages[:1])
  assert prompt == ids[: len(prompt)]
  for found in (ids, prompt):
    assert found.count(bytes_tokenizer.bos_id) == 1 and found[0] == 2
  assert ids.count(bytes_tokenizer.eos_id) == (name == 'plain')


def test_a_token_across_the_seam_is_supervised():
  def merge(model):
    for piece in ('o', 'w', 'ow'):
      model.pieces.add(piece=piece, score=-1.0, type=1)

  tokenizer = _model(merge)
  ids, weights = templates.encode(
    tokenizer, 'plain', templates.exchange('no', 'w!')
  )
  assert [tokenizer.pieces[i][0] for i in ids] == [
    '<bos>',
    '<0x6E>',
    'ow',
    '<0x21>',
    '<eos>',
  ]
  assert weights == [0, 0, 1, 1, 1]


def test_padding_may_share_the_id_of_eos():
  def unpad(model):
    model.pieces[0].piece = '<unused>'
    model.trainer_spec.pad_id = -1

  tokenizer = _model(unpad)
  assert tokenizer.pad_id == tokenizer.eos_id == 1
  ids, weights = templates.encode(
    tokenizer, 'plain', templates.exchange('a', 'b')
  )
  assert ids[-1] == 1 and weights[-1] == 1


def test_system_turn_goes_into_the_first_user_turn():
  messages = [{'role': 'system', 'content': 'Be brief.'}, *_CHAT[:1]]
  text, spans = templates.render('gemma', messages, generate=True)
  assert text == (
    '<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n'
    '<start_of_turn>model\n'
  )
  assert not spans


@pytest.mark.parametrize(
  'roles, message',
  [
    (['user', 'user'], 'turn 2: is a user turn'),
    (['assistant'], 'turn 1: is a model turn'),
    (['system'], 'no user turn'),
    (['user', 'tool'], "unknown role 'tool'"),
  ],
)
def test_turns_out_of_order(roles, message):
  messages = [{'role': role, 'content': 'x'} for role in roles]
  with pytest.raises(errors.ConfigError, match=message):
    templates.render('gemma', messages)


def test_names_and_tokenizers_are_checked(bytes_tokenizer):
  with pytest.raises(errors.ConfigError, match="did you mean 'gemma'"):
    templates.render('gema', _CHAT)
  with pytest.raises(errors.ConfigError, match='nothing is to generate'):
    templates.encode_prompt(bytes_tokenizer, 'gemma', _CHAT)

  def hide(model):  # Control pieces are never found in text.
    model.pieces[5].type = 3

  with pytest.raises(errors.ConfigError, match='which the tokenizer lacks'):
    templates.encode(_model(hide), 'gemma', _CHAT)
