"""transformers gets our ids from files that we write, and vice versa.

Not compared: bos, eos, padding and unknown tokens written out in text, which
transformers encodes as special tokens and SentencePiece as text.
"""

import dataclasses
import functools
import json
import os
import random
import subprocess

import jax
import numpy as np
import pytest

from kd.checkpoints import gguf_writer
from kd.core import errors
from kd.input_pipeline import chat_cases
from kd.input_pipeline import gguf_tokenizers
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizer_differences
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_models
from kd.models import chat_turns
from kd.models import families
from tests.oracles import client

_ROOT = os.path.dirname(
  os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
)
_SCRIPT = os.path.join(_ROOT, 'tests', 'oracles', 'hf_tokenize.py')
_RESAVE = os.path.join(_ROOT, 'tests', 'oracles', 'hf_resave.py')
_KINDS = ('bytes', 'gemma', 'trained')
# A GIF of one pixel.
_PIXEL = 'R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs='
_CHATS = [
  [{'role': 'user', 'content': ' What is 2+2? \n'}],
  [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': ' 4'}],
  [
    {'role': 'system', 'content': 'Be brief. '},
    {'role': 'user', 'content': 'One\n\ntwo'},
    {'role': 'assistant', 'content': 'Oui.\n'},
    {'role': 'user', 'content': 'caf\u00e9 \U0001f600'},
  ],
  chat_cases.WITH_TOOLS,
  [
    {'role': 'system', 'content': 'Look.'},
    {
      'role': 'user',
      'content': [
        {'type': 'text', 'text': ' Is \n'},
        {'type': 'image', 'base64': _PIXEL},
        {'type': 'text', 'text': '\n\nlike '},
        {'type': 'image', 'base64': _PIXEL},
        {'type': 'text', 'text': ' this? '},
      ],
    },
  ],
  [{'role': 'user', 'content': 'a'}, {'role': 'user', 'content': 'b'}],
]


@pytest.fixture(scope='module')
def python():
  if 'KD_ORACLES_PYTHON' not in os.environ:
    pytest.skip('KD_ORACLES_PYTHON names no Python with transformers')
  return os.environ['KD_ORACLES_PYTHON']


def _texts():
  """Some hundred strings: each kind that tokenizers are known to get wrong."""
  rng = random.Random(0)
  scripts = [
    'caf\u00e9 na\u00efve',
    '\u4f60\u597d\uff0c\u4e16\u754c',
    '\u0928\u092e\u0938\u094d\u0924\u0947',
    '\u0645\u0631\u062d\u0628',
    '\u041f\u0440\u0438\u0432\u0435\u0442',
    '\U0001f469\u200d\U0001f680',
    'e\u0301',
    '\ufb01',
    '\u200b',
    '\u00a0',
    '\r\n',
    '\x00',
    '\U0001f600',
  ]
  words = [
    'the',
    ' answer',
    '12345',
    '3.14',
    '$29',
    '####',
    'def f(x):',
    '<start_of_turn>user',
    '<end_of_turn>',
    '<b>',
    '</table>',
    '\n',
    '\t',
    '\n\n\n',
    '  ',
    'foo_bar',
    "it's",
    '<unused7>',
    '\u2212',
    '{}',
  ] + (scripts)
  texts = ['', ' ', 'a', *words]
  texts += ['x' + ' ' * n + 'y' for n in range(41)]
  texts += [' ' * n for n in range(1, 41)]
  texts += ['\n' * n + '\t' * n + 'z' for n in range(1, 41)]
  texts += [str(rng.randrange(10**n)) for n in range(1, 30)]
  # Texts that overlap themselves, and so can be merged in several ways.
  texts += [
    text * n for text in ('=', 'ana', 'ha', '\u2581') for n in range(1, 20)
  ]
  texts += [
    '<think>\n\nyes</think>',
    'think> <tool> </tool>',
    '\u2581\u2581\u2581the',
  ]
  for _ in range(300):
    count = rng.randrange(2, 12)
    texts.append(rng.choice(['', ' ']).join(rng.choices(words, k=count)))
  return texts


@functools.cache
def _tokenizer(kind):
  if kind == 'trained':
    return sentencepiece_tokenizer.SentencePieceTokenizer(
      trained_models.train(**trained_models.GEMMA)
    )
  return tokenizers.load(
    'bytes' if kind == 'bytes' else f'gguf:{client.gguf()}'
  )


def _ask_all(python, directories, model_type, chats=()):
  requests = []
  for directory in directories:
    # transformers and vLLM choose the class by the folder's config.json.
    with open(os.path.join(directory, 'config.json'), 'w') as f:
      json.dump({'model_type': model_type}, f)
    request = {'directory': str(directory), 'texts': _texts(), 'chats': chats}
    requests.append(request)
  answers = _run(python, _SCRIPT, requests).splitlines()
  return [json.loads(line) for line in answers]


def _run(python, script, requests):
  """Runs an oracle once, since importing transformers takes seconds."""
  out = subprocess.run(
    [python, script],
    input='\n'.join(map(json.dumps, requests)),
    text=True,
    capture_output=True,
    check=False,
  )
  assert out.returncode == 0, out.stderr
  return out.stdout


@pytest.fixture(scope='module')
def written(python, tmp_path_factory):
  """The folder that we write and transformers' answers for it, by kind."""
  folders = {kind: tmp_path_factory.mktemp(kind) for kind in _KINDS}
  for kind, folder in folders.items():
    chat = templates.TEMPLATES['gemma'].jinja
    hf_tokenizer.write(_tokenizer(kind), folder, chat)
  answers = _ask_all(python, folders.values(), 'gemma3_text', _CHATS)
  return dict(zip(_KINDS, zip(folders.values(), answers), strict=True))


@pytest.mark.parametrize('kind', _KINDS)
def test_ids_equal_transformers(kind, written):
  tokenizer = _tokenizer(kind)
  folder, got = written[kind]
  assert got['eos_id'] == tokenizer.eos_id
  for text, ids, decoded in zip(
    _texts(), got['ids'], got['decoded'], strict=True
  ):
    ours = tokenizer.encode(text)
    assert ids == [tokenizer.bos_id] + ours, repr(text)
    # Both decode the symbol for a space as a space.
    assert tokenizer.decode(ours) == decoded == text.replace('\u2581', ' ')
  for given, chat in zip(_CHATS, got['chats'], strict=True):
    messages = chat_cases.checked(given)
    if chat['error']:
      with pytest.raises(errors.ConfigError, match='turn 2.*is a user turn'):
        templates.render('gemma', messages)
      continue
    generate = messages[-1]['role'] == 'user'
    text = templates.render('gemma', messages, generate)[0]
    shown = text.replace(chat_turns.IMAGE, '<start_of_image>')
    assert shown == chat['text']
    if shown != text:
      continue  # The processor changes the text before it is encoded.
    ours = (
      templates.encode_prompt(tokenizer, 'gemma', messages)
      if generate
      else templates.encode(tokenizer, 'gemma', messages)[0].tolist()
    )
    assert ours == chat['ids']
    if not generate:
      weights = templates.encode(tokenizer, 'gemma', messages)[2]
      assert weights.tolist() == chat['mask'] and any(chat['mask'])
  assert [bool(chat['error']) for chat in got['chats']] == [False] * 5 + [True]
  reread = tokenizers.load(f'hf:{folder}')
  assert reread.digest == tokenizer.digest


# Tokens that are added before transformers saves: special ones, and others.
_ADDED = {'saved': ([], []), 'tuned': (['<think>', '</think>'], ['<tool>'])}


@pytest.fixture(scope='module')
def saved(written, python, tmp_path_factory):
  """Folders that transformers saved, and their ids, by kind and name of _ADDED.

  They are read again after we have rewritten them.
  """
  root = tmp_path_factory.mktemp('saved')
  folders = {
    (kind, name): root / kind / name
    for kind in _KINDS
    for name in _ADDED
    # Reading the large vocabulary takes seconds.
    if (kind, name) != ('gemma', 'saved')
  }
  requests = []
  for (kind, name), folder in folders.items():
    special, plain = _ADDED[name]
    request = {'directory': str(written[kind][0]), 'target': str(folder)}
    requests.append(request | {'special': special, 'plain': plain})
  _run(python, _RESAVE, requests)
  answers = _ask_all(python, folders.values(), 'gemma3_text')
  return dict(zip(folders, zip(folders.values(), answers), strict=True))


def test_tokenizers_saved_by_transformers_have_equal_ids(
  saved, python, tmp_path
):
  """transformers 5 saves no tokenizer.model; fine-tunes add tokens."""
  exported = []
  for (kind, name), (folder, got) in saved.items():
    tokenizer, tokens = _tokenizer(kind), _ADDED[name]
    again = tmp_path / kind / name
    exported.append(again)
    model = folder / sentencepiece_models.MODEL_FILE
    assert not model.exists()
    read = [tokenizers.load(f'hf:{folder}')]
    # As in fine-tunes: the tokenizer.model of the base model is added.
    model.write_bytes(tokenizer.model_proto)
    read.append(tokenizers.load(f'hf:{folder}'))
    hf_tokenizer.write(read[0], again, templates.TEMPLATES['gemma'].jinja)
    for one in read:
      assert one.vocab_size == tokenizer.vocab_size + len(sum(tokens, []))
      for text, ids in zip(_texts(), got['ids'], strict=True):
        assert [one.bos_id] + one.encode(text) == ids, repr(text)
  for got, (_, like) in zip(
    _ask_all(python, exported, 'gemma3_text'), saved.values(), strict=True
  ):
    assert got['ids'] == like['ids']


def _write_gguf(path, tokenizer):
  """Writes a GGUF file with the tokenizer and a model with one small layer."""
  config = dataclasses.replace(
    families.variant('tiny', 'variant'), vocab_size=tokenizer.vocab_size
  ).keep_layers((0,))
  model = families.build(config, 'float32', 'none', 'student')
  params = jax.tree.map(
    lambda x: np.ones(x.shape, np.float32), model.abstract_params()
  )
  metadata = gguf_tokenizers.fields(
    tokenizer, config.vocab_size, 'gemma', 'data.tokenizer'
  )
  gguf_writer.write(path, params, config, 'F16', 'F16', metadata)
  return f'gguf:{path}'


@pytest.mark.usefixtures('python')
@pytest.mark.parametrize('kind', _KINDS)
def test_ids_equal_llama_cpps(kind, tmp_path):
  """Except for U+2581, which only SentencePiece treats as a space."""
  tokenizer = _tokenizer(kind)
  path = str(tmp_path / 'a.gguf')
  read = tokenizers.load(_write_gguf(path, tokenizer))
  assert tokenizer_differences.describe(read, tokenizer) == ''
  texts = [text for text in _texts() if not {'\0', '\u2581'} & {*text}]
  case = dict(file=path, texts=texts)
  out, _ = client.run('llama', 'models', {'a': case}, {}, tmp_path / 'oracle')
  for text, ids in zip(texts, out['a']['ids'], strict=True):
    assert ids == [tokenizer.bos_id] + tokenizer.encode(text), repr(text)
