"""transformers gets our ids and chats from Qwen3's files and from ours.

Not compared: EOS and padding written out in text, which transformers encodes as
special tokens and kd as text.
"""

import json
import os
import random
import subprocess
import unicodedata

import pytest

from kd.input_pipeline import chat_cases
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizer_differences
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_byte_level
from tests.oracles import client

_ROOT = os.path.dirname(
  os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
)
_THOUGHTS = [
  {'role': 'user', 'content': 'Cold?'},
  {
    'role': 'assistant',
    'content': '<think>\nHm.\n</think>\n\n',
    'tool_calls': [{'function': {'name': 'get', 'arguments': {}}}],
  },
  {'role': 'tool', 'content': '3 C'},
  {'role': 'assistant', 'content': 'Yes.'},
]
_CHATS = [
  [{'role': 'user', 'content': ' What is 2+2? \n'}],
  [
    {'role': 'user', 'content': 'Hi'},
    {'role': 'assistant', 'content': '\n4\n'},
  ],
  [
    {'role': 'system', 'content': 'Be brief. '},
    {'role': 'user', 'content': 'One\n\ntwo'},
    {'role': 'assistant', 'content': '<think>\nHm.\n\n</think>\n\nOui.\n'},
    {'role': 'user', 'content': 'cafe\u0301 \U0001f600'},
    {'role': 'assistant', 'content': '\n\n<think>\nx </think> y\n</think>\nz'},
  ],
  [
    {'role': 'user', 'content': '1'},
    {'role': 'assistant', 'content': '\n2 '},
    {'role': 'user', 'content': '3'},
  ],
  chat_cases.WITH_TOOLS,
  _THOUGHTS,
  [*_THOUGHTS, {'role': 'user', 'content': 'Thanks'}],
]


@pytest.fixture(scope='module')
def python():
  if 'KD_ORACLES_PYTHON' not in os.environ:
    pytest.skip('KD_ORACLES_PYTHON names no Python with transformers')
  return os.environ['KD_ORACLES_PYTHON']


def _texts():
  """Some hundred strings: each kind that tokenizers are known to get wrong."""
  rng = random.Random(0)
  words = ['def f(x):', ' self', '12345', '3.14', "it's", "I'LL", '####', '_']
  words += [' ' * n for n in range(1, 9)] + ['\n' * n for n in range(1, 4)]
  words += ['\r\n', '\t', '\x00', '\x7f', '\u00a0', '\u200b', '\ufeff']
  # Composed and decomposed; Hangul; unchanged by NFC; replaced by NFC.
  words += ['caf\u00e9', 'cafe\u0301', 'a\u0323\u0307', '\u1112\u1161\u11ab']
  words += ['\ufb01', '\u212b', '\u0958', '\u0301', '\u4f60\u597d\u3002']
  words += ['\u0928\u092e\u0938\u094d\u0924\u0947', '\u0645\u0631\u062d\u0628']
  words += [
    '\U0001f469\u200d\U0001f680',
    '\U0001f600',
    '\u2212',
    '\u0661\u0662',
  ]
  words += ['<|im_start|>user\n', '<|im_end|>', '<think>', '</think>', '<|']
  yield from ('', *words)
  for _ in range(500):
    yield ''.join(rng.choices(words, k=rng.randrange(2, 12)))


def _request(directory, texts=(), chats=(), model_type='qwen3', **options):
  """Returns a request to hf_tokenize.py; writes the config that it reads."""
  with open(os.path.join(directory, 'config.json'), 'w') as f:
    json.dump({'model_type': model_type}, f)
  request = {'directory': str(directory), 'texts': texts, 'chats': chats}
  return request | {'skip': 0, 'options': options}


def _ask(python, *requests):
  """Returns the answers of one process, since starting one takes seconds."""
  lines = _run(python, 'hf_tokenize.py', requests).splitlines()
  return [json.loads(line) for line in lines]


def _run(python, script, requests):
  out = subprocess.run(
    [python, os.path.join(_ROOT, 'tests', 'oracles', script)],
    input='\n'.join(map(json.dumps, requests)),
    text=True,
    capture_output=True,
    check=False,
  )
  assert out.returncode == 0, out.stderr
  return out.stdout


def test_ids_equal_transformers(python, tmp_path):
  given, exported = tmp_path / 'given', tmp_path / 'exported'
  given.mkdir()
  tokenizer = tokenizers.load(trained_byte_level.write(given))
  hf_tokenizer.write(
    tokenizer, exported, templates.TEMPLATES['qwen3_no_thinking'].jinja
  )
  texts = list(_texts())
  before, after = _ask(python, *(_request(d, texts) for d in (given, exported)))
  assert before['class'] == 'Qwen2Tokenizer'
  assert (before['ids'], before['decoded']) == (after['ids'], after['decoded'])
  for text, ids, decoded in zip(
    texts, before['ids'], before['decoded'], strict=True
  ):
    ours = tokenizer.encode(text)
    assert ours == ids, repr(text)
    assert tokenizer.decode(ours) == decoded, repr(text)


def test_files_saved_again_by_transformers_are_equal(python, tmp_path):
  """As in fine-tunes: the same tokenizer, or one with more tokens."""
  given = tmp_path / 'given'
  given.mkdir()
  own = tokenizers.load(trained_byte_level.write(given))
  (given / 'config.json').write_text('{"model_type": "qwen3"}')
  requests = [
    {
      'directory': str(given),
      'target': str(tmp_path / name),
      'special': special,
      'plain': plain,
    }
    for name, special, plain in (
      ('same', [], []),
      ('more', ['<s1>'], ['<tool>']),
    )
  ]
  _run(python, 'hf_resave.py', requests)
  for request in requests:
    read = tokenizers.load(f'hf:{request["target"]}')
    difference = tokenizer_differences.describe(read, own)
    same = not request['plain']
    assert (difference == '') == (read.digest == own.digest) == same
  texts = [f'{x}<tool>{y}<s1>' for x in ('', 'a ') for y in ('b', ' <think>')]
  (got,) = _ask(python, _request(tmp_path / 'more', texts))
  assert [read.encode(text) for text in texts] == got['ids']


@pytest.mark.usefixtures('python')
def test_ids_of_a_gguf_equal_llama_cpps(tmp_path):
  """Except that llama.cpp does not normalize text."""
  own = tokenizers.load(trained_byte_level.write(tmp_path))
  file = tmp_path / 'a.gguf'
  spec = trained_byte_level.write_gguf(file, own, with_tensors=True)
  tokenizer = tokenizers.load(spec)
  texts = {unicodedata.normalize('NFC', text) for text in _texts()}
  texts = sorted(text for text in texts if '\0' not in text)
  case = dict(file=str(file), texts=texts)
  out, _ = client.run('llama', 'models', {'a': case}, {}, tmp_path / 'oracle')
  for text, theirs in zip(texts, out['a']['ids'], strict=True):
    assert tokenizer.encode(text) == theirs, repr(text)


def test_llama_3_begins_texts_with_bos(python, tmp_path):
  """Its tokenizer.json has a post-processor for BOS, and sets ignore_merges."""
  spec = trained_byte_level.write(
    tmp_path, tokenizer_class='PreTrainedTokenizerFast'
  )
  file = tmp_path / 'tokenizer.json'
  value = json.loads(file.read_text())
  value['normalizer'] = None
  value['model']['ignore_merges'] = True
  bos = trained_byte_level.SPECIAL[3]
  index = trained_byte_level.VOCABULARY + 3
  first = {'SpecialToken': {'id': bos, 'type_id': 0}}
  value['post_processor'] = {
    'type': 'Sequence',
    'processors': [
      {**value['post_processor'], 'trim_offsets': True},
      {
        'type': 'TemplateProcessing',
        'single': [first, {'Sequence': {'id': 'A', 'type_id': 0}}],
        'pair': [first, {'Sequence': {'id': 'A', 'type_id': 0}}],
        'special_tokens': {bos: {'id': bos, 'ids': [index], 'tokens': [bos]}},
      },
    ],
  }
  file.write_text(json.dumps(value))
  tokenizer = tokenizers.load(spec)
  assert tokenizer.bos_id == index
  texts = list(_texts())[:200]
  (got,) = _ask(python, _request(tmp_path, texts, model_type='llama'))
  for text, ids in zip(texts, got['ids'], strict=True):
    plain = templates.exchange(text)
    assert templates.encode_prompt(tokenizer, 'plain', plain) == ids, repr(text)


_RENDERED = [
  ('qwen3', {}),
  ('qwen3', {'enable_thinking': True}),
  ('qwen3_no_thinking', {}),
  # Our text of the other template, with the switch of the published one.
  ('qwen3_no_thinking', {'enable_thinking': False}),
  ('plain', {}),
]


@pytest.fixture(scope='module')
def rendered(python, tmp_path_factory):
  """The tokenizer, chats and transformers' texts of _RENDERED, and an error."""
  root = tmp_path_factory.mktemp('rendered')
  tokenizer = tokenizers.load(trained_byte_level.write(root))
  requests = []
  for i, (name, options) in enumerate(_RENDERED):
    jinja = 'qwen3' if 'enable_thinking' in options else name
    folder = root / f'{i}'
    hf_tokenizer.write(tokenizer, folder, templates.TEMPLATES[jinja].jinja)
    chats = _CHATS if name != 'plain' else _CHATS[:1]
    requests.append(_request(folder, chats=chats, **options))
  user = {'role': 'user', 'content': 'a'}
  repeated = _request(root / '0', chats=[[user, user]])
  *answers, refused = _ask(python, *requests, repeated)
  return tokenizer, list(zip(requests, answers, strict=True)), refused


@pytest.mark.parametrize('index', range(len(_RENDERED)))
def test_chats_equal_transformers(rendered, index):
  tokenizer, answers, _ = rendered
  name, (request, got) = _RENDERED[index][0], answers[index]
  for given_chat, chat in zip(request['chats'], got['chats'], strict=True):
    messages = chat_cases.checked(given_chat)
    generate = messages[-1]['role'] == 'user'
    text, _ = templates.render(name, messages, generate)
    assert text.removeprefix('<bos>') == chat['text']
    ours = (
      templates.encode_prompt(tokenizer, name, messages)
      if generate
      else templates.encode(tokenizer, name, messages)[0].tolist()
    )
    assert ours == chat['ids']
    if not generate and templates.has_turns(name):
      weights = templates.encode(tokenizer, name, messages)[2]
      assert weights.tolist() == chat['mask'] and any(chat['mask'])


def test_chats_with_repeated_roles_are_refused(rendered):
  (answer,) = rendered[2]['chats']
  assert 'Roles must alternate' in answer['error']
