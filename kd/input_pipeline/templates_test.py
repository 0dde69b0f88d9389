"""Templates: one BOS, the right tokens supervised, the seam, the turns."""

import io
import random

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from kd.core import errors
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_byte_level
from kd.models import chat_turns

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
  return sentencepiece_tokenizer.SentencePieceTokenizer(
    model.SerializeToString()
  )


@pytest.fixture(scope='module')
def bytes_tokenizer():
  return tokenizers.load('bytes')


def _chosen(tokenizer, ids, marks):
  return tokenizer.decode([i for i, mark in zip(ids, marks) if mark])


def _encode(tokenizer, name, messages):
  columns = templates.encode(tokenizer, name, messages)
  return tuple(column.tolist() for column in columns)


def test_gemma_text():
  text, turns = templates.render('gemma', _CHAT)
  assert text == (
    '<bos><start_of_turn>user\nHi<end_of_turn>\n'
    '<start_of_turn>model\nYes.<end_of_turn>\n'
    '<start_of_turn>user\n2+2?<end_of_turn>\n'
    '<start_of_turn>model\n4<end_of_turn>\n'
  )
  assert [text[t.begin : t.end] for t in turns] == [
    'Yes.<end_of_turn>',
    '4<end_of_turn>',
  ]


def test_end_of_turn_is_supervised(bytes_tokenizer):
  ids, parts, weights = _encode(bytes_tokenizer, 'gemma', _CHAT)
  assert [w for i, w in zip(ids, weights) if i == 5] == [0, 1, 0, 1]
  assert _chosen(bytes_tokenizer, ids, weights) == (
    'Yes.<end_of_turn>4<end_of_turn>'
  )
  assert not any(parts)


def test_plain_supervises_answer_and_eos(bytes_tokenizer):
  ids, _, weights = _encode(
    bytes_tokenizer, 'plain', templates.exchange('abc', 'd')
  )
  assert ids == [2, 7 + 97, 7 + 98, 7 + 99, 7 + 100, 1]
  # A prompt of BOS and 3 ids, and a completion of 2 ids.
  assert weights[1:] == [0, 0, 0, 1, 1]


@pytest.fixture(scope='module')
def qwen_tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp('qwen')
  return tokenizers.load(trained_byte_level.write(folder))


@pytest.mark.parametrize('name', ['plain', 'gemma'])
def test_texts_have_exactly_one_bos(bytes_tokenizer, name):
  messages = templates.exchange('<bos><eos>x', '<bos>y<eos>')
  ids, _, _ = _encode(bytes_tokenizer, name, messages)
  prompt = templates.encode_prompt(bytes_tokenizer, name, messages[:1])
  assert prompt == ids[: len(prompt)]
  for found in (ids, prompt):
    assert found.count(bytes_tokenizer.bos_id) == 1 and found[0] == 2
  assert ids.count(bytes_tokenizer.eos_id) == (name == 'plain')


@pytest.mark.parametrize('name', ['plain', 'qwen3', 'qwen3_no_thinking'])
def test_text_without_bos_adds_no_bos_and_no_eos(qwen_tokenizer, name):
  messages = templates.exchange('<bos><|endoftext|>x', '<|endoftext|>y')
  ids, _, weights = _encode(qwen_tokenizer, name, messages)
  prompt = templates.encode_prompt(qwen_tokenizer, name, messages[:1])
  # With thinking, the model begins with its block of thoughts.
  assert prompt == ids[: len(prompt)]
  assert not any(weights[: len(prompt)]) and all(weights[len(prompt) : -1])
  assert ids.count(qwen_tokenizer.eos_id) == (name == 'plain')
  text = qwen_tokenizer.decode(ids)
  assert text.count('<bos>') == 1 and text.count('<|endoftext|>') == 2
  with pytest.raises(errors.ConfigError, match='the tokenizer has no BOS'):
    templates.encode_prompt(qwen_tokenizer, 'plain', templates.exchange(''))


def _qwen_chat(*answers):
  turns = ''.join(
    f'<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n{answer}'
    f'<|im_end|>\n'
    for said, answer in zip([' Hi ', '2+2?'], answers, strict=True)
  )
  return f'<|im_start|>system\nBe brief.<|im_end|>\n{turns}'


_EMPTY = '<think>\n\n</think>\n\n'


def test_qwen3_text():
  messages = [{'role': 'system', 'content': 'Be brief.'}, *_CHAT]
  messages[2] = {'role': 'model', 'content': '<think>\nx\n</think>\n\nYes. '}
  text, turns = templates.render('qwen3', messages)
  assert text == _qwen_chat('Yes. ', f'{_EMPTY}4')
  said = [text[t.begin : t.end] for t in turns]
  assert said == ['Yes. <|im_end|>', f'{_EMPTY}4<|im_end|>']
  again, turns = templates.render('qwen3_no_thinking', messages)
  said = [text[t.begin : t.end] for t in turns]
  assert (again, said) == (text, ['Yes. <|im_end|>', '4<|im_end|>'])
  for name, end in (('qwen3', ''), ('qwen3_no_thinking', _EMPTY)):
    prompt, turns = templates.render(name, messages[:-1], generate=True)
    assert prompt == text[: text.index(f'{_EMPTY}4')] + end
    assert len(turns) == 1


def test_qwen3_keeps_thoughts_since_the_last_question():
  """As in Qwen3's published template: tool results are not questions."""
  call = [{'name': 'f', 'arguments': {}}]
  thought = '<think>\nx\n</think>\n\n'
  step = {'role': 'assistant', 'content': f'{thought}I', 'tool_calls': call}
  told = {'role': 'tool', 'content': '1'}
  turn = [*_CHAT[:1], step, told, step | {'content': 'II'}, told]
  text, turns = templates.render(
    'qwen3', [*turn, step, *_CHAT[2:3], step, told, step]
  )
  said = [text[t.begin : t.end].partition('\n<tool_call>')[0] for t in turns]
  assert said == ['I', 'II', 'I', f'{thought}I', f'{thought}I']
  prompt, turns = templates.render('qwen3', turn, generate=True)
  said = [prompt[t.begin : t.end].partition('\n<tool_call>')[0] for t in turns]
  assert said == [f'{thought}I', 'II']


@pytest.mark.parametrize(
  'name, content, rationale, worked, answer',
  [
    ('qwen3', 'a b', 'a', f'{_EMPTY}a', ' b'),
    ('qwen3_no_thinking', 'a b', 'a', 'a', ' b'),
    ('qwen3_no_thinking', '\n\na b', '\n\na', 'a', ' b'),
    (
      'qwen3',
      '<think>\na\n</think>b',
      '<think>',
      '<think>\na\n</think>\n\n',
      'b',
    ),
    (
      'qwen3_no_thinking',
      '<think>a</think>\n\nb c',
      '<think>a</think>\n\nb',
      '<think>\na\n</think>\n\nb',
      ' c',
    ),
  ],
)
def test_the_rationale_of_qwen3(name, content, rationale, worked, answer):
  messages = templates.exchange('x', content, rationale)
  text, (turn,) = templates.render(name, messages)
  assert text[turn.begin : turn.answer] == worked
  assert text[turn.answer : turn.end] == f'{answer}<|im_end|>'
  plain, (same,) = templates.render(name, templates.exchange('x', content))
  assert plain == text
  assert same == chat_turns.Turn(turn.begin, turn.begin, turn.end)


def test_tokens_across_prompt_and_answer_are_supervised():
  def merge(model):
    for piece in ('o', 'w', 'ow'):
      model.pieces.add(piece=piece, score=-1.0, type=1)

  tokenizer = _model(merge)
  ids, parts, weights = _encode(
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
  assert parts == [0, 0, 0, 0, 0]
  # A token that overlaps rationale and answer belongs to the rationale.
  again = _encode(tokenizer, 'plain', templates.exchange('n', 'ow!', 'o'))
  assert again == (ids, [0, 0, 1, 0, 0], weights)


_ALPHABET = 'ab 12\n#\u00e9\u4f60\U0001f600'


@pytest.fixture(scope='module')
def merging_tokenizer():
  """A BPE with pieces across words and lines, and bytes for rare text."""
  rng = random.Random(0)
  lines = [
    ''.join(rng.choices(_ALPHABET[:-2], k=rng.randrange(1, 30))) + ' #### 12'
    for _ in range(300)
  ]
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines),
    model_writer=model,
    model_type='bpe',
    vocab_size=400,
    byte_fallback=True,
    character_coverage=1.0,
    split_by_whitespace=False,
    split_by_number=False,
    split_by_unicode_script=False,
    normalization_rule_name='identity',
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    user_defined_symbols=['<start_of_turn>', '<end_of_turn>'],
    minloglevel=2,
  )
  return sentencepiece_tokenizer.SentencePieceTokenizer(model.getvalue())


def _first_that_cover(tokenizer, ids, text):
  """Returns the minimum number of ids whose text begins with `text`."""
  count = 0
  while not tokenizer.decode(ids[:count]).startswith(text):
    count += 1
  return count


def _most_within(tokenizer, ids, text):
  """Returns the maximum number of ids that decode to a prefix of `text`."""
  return max(
    count
    for count in range(len(ids) + 1)
    if text.startswith(tokenizer.decode(ids[:count]))
  )


@pytest.mark.parametrize(
  'kind, name',
  [(k, n) for k in ('bytes', 'merging') for n in ('plain', 'gemma')]
  + [('qwen', 'plain'), ('qwen', 'qwen3_no_thinking')],
)
def test_rationale_spans_equal_brute_force(kind, name, request):
  tokenizer = request.getfixturevalue(f'{kind}_tokenizer')
  rng = random.Random(1)
  straddled = 0
  for _ in range(300):
    inputs, targets = (
      ''.join(rng.choices(_ALPHABET, k=rng.randrange(16))) for _ in range(2)
    )
    rationale = targets[: rng.randrange(len(targets) + 1)]
    messages = templates.exchange(inputs, targets, rationale)
    ids, parts, weights = _encode(tokenizer, name, messages)
    prompt, kept = inputs, rationale
    if name == 'gemma':
      prompt = (
        f'<start_of_turn>user\n{inputs.strip()}<end_of_turn>\n'
        '<start_of_turn>model\n'
      )
      # Blanks that the template strips from targets belong to no part.
      first = len(targets) - len(targets.lstrip())
      kept = rationale[first : len(targets.rstrip())]
    elif name == 'qwen3_no_thinking':
      prompt = (
        f'<|im_start|>user\n{inputs}<|im_end|>\n<|im_start|>assistant\n{_EMPTY}'
      )
      kept = rationale[len(targets) - len(targets.lstrip('\n')) :]
    # The ids are the same as without a rationale; only the parts differ.
    plain = _encode(tokenizer, name, templates.exchange(inputs, targets))
    assert plain == (ids, [0] * len(ids), weights)
    begin = end = 0
    if kept:
      begin = _most_within(tokenizer, ids, prompt)
      end = _first_that_cover(tokenizer, ids, prompt + kept)
      straddled += tokenizer.decode(ids[:end]) != prompt + kept
    assert [i for i, part in enumerate(parts) if part] == list(
      range(begin, end)
    )
    assert all(weights[begin:end])
  assert (straddled > {'qwen': 0}.get(kind, 10)) == (kind != 'bytes')


def test_padding_may_share_the_id_of_eos():
  def unpad(model):
    model.pieces[0].piece = '<unused>'
    model.trainer_spec.pad_id = -1

  tokenizer = _model(unpad)
  assert tokenizer.pad_id == tokenizer.eos_id == 1
  ids, _, weights = _encode(tokenizer, 'plain', templates.exchange('a', 'b'))
  assert ids[-1] == 1 and weights[-1] == 1


def test_system_turns_are_merged_into_the_first_user_turn():
  messages = [{'role': 'system', 'content': 'Be brief.'}, *_CHAT[:1]]
  text, turns = templates.render('gemma', messages, generate=True)
  assert text == (
    '<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n'
    '<start_of_turn>model\n'
  )
  assert not turns


@pytest.mark.parametrize(
  'roles, message',
  [
    (['user', 'user'], 'turn 2: is a user turn'),
    (['assistant'], 'turn 1: is a model turn'),
    (['system'], 'no user turn'),
    (['user', 'tool'], 'turn 2: is a tool turn'),
    (['user', 'robot'], "unknown role 'robot'"),
  ],
)
def test_turns_out_of_order_are_refused(roles, message):
  messages = [{'role': role, 'content': 'x'} for role in roles]
  with pytest.raises(errors.ConfigError, match=message):
    templates.render('gemma', messages)


def test_names_and_tokenizers_are_checked(bytes_tokenizer):
  with pytest.raises(errors.ConfigError, match="did you mean 'gemma'"):
    templates.render('gema', _CHAT)
  with pytest.raises(errors.ConfigError, match='nothing to generate'):
    templates.encode_prompt(bytes_tokenizer, 'gemma', _CHAT)

  def hide(model):  # Control pieces are never found in text.
    model.pieces[5].type = 3

  with pytest.raises(errors.ConfigError, match='which the tokenizer lacks'):
    _encode(_model(hide), 'gemma', _CHAT)
  with pytest.raises(errors.ConfigError, match="legal: 'gemma', 'plain'$"):
    templates.check_tokenizer(bytes_tokenizer, 'qwen3')
